package hyperpod

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared[int](2*time.Second, time.Now)
		reads := 0
		read := func(context.Context) (int, error) {
			reads++
			time.Sleep(time.Second)
			return reads, nil
		}
		get := func(want int) {
			t.Helper()
			if got, err := s.get(t.Context(), read); got != want || err != nil {
				t.Errorf("get() = %d, %v, want %d", got, err, want)
			}
		}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { get(1) })
		}
		all.Wait() // the answer is 1 s old now
		time.Sleep(time.Second - time.Nanosecond)
		get(1)
		time.Sleep(time.Nanosecond)
		get(2)
		get(2)
		s.forget()
		get(3)

		// A question asked before forget answers nobody after it.
		s.forget()
		all.Go(func() { get(4) })
		synctest.Wait()
		s.forget()
		get(5)
		all.Wait()
	})
}

func TestSharedErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared[int](time.Hour, time.Now)
		broken := errors.New("broken")
		if _, err := s.get(t.Context(), func(context.Context) (int, error) { return 1, broken }); !errors.Is(err, broken) {
			t.Errorf("get() = %v, want %v", err, broken)
		}
		if got, err := s.get(t.Context(), func(context.Context) (int, error) { return 2, nil }); got != 2 || err != nil {
			t.Errorf("get() after an error = %d, %v, want 2", got, err)
		}
		s.forget()
		// One caller reads for long; another gives up waiting for its turn.
		var all sync.WaitGroup
		all.Go(func() {
			_, _ = s.get(t.Context(), func(context.Context) (int, error) { time.Sleep(time.Minute); return 3, nil })
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.get(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("get() = %v, want %v", err, context.DeadlineExceeded)
		}
		all.Wait()
	})
}
