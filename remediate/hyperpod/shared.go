package hyperpod

import (
	"context"
	"sync/atomic"
	"time"
)

// shared lets callers that ask the same at about the same time share one
// answer. Errors are never shared.
type shared[T any] struct {
	maxAge time.Duration
	now    func() time.Time
	// turn is held by the caller that reads; the others wait for its answer.
	turn chan struct{}
	// epoch changes when older answers must not be used any more.
	epoch *atomic.Int64

	have  bool
	value T
	at    time.Time
	since int64 // the epoch in which value was asked for
}

func newShared[T any](maxAge time.Duration, now func() time.Time) shared[T] {
	return shared[T]{maxAge: maxAge, now: now, turn: make(chan struct{}, 1), epoch: new(atomic.Int64)}
}

// get gives an answer to a question asked at most maxAge ago.
func (s *shared[T]) get(ctx context.Context, read func(context.Context) (T, error)) (T, error) {
	var none T
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
	asked, epoch := s.now(), s.epoch.Load()
	if s.have && s.since == epoch && asked.Sub(s.at) < s.maxAge {
		return s.value, nil
	}
	value, err := read(ctx)
	if err != nil {
		return none, err
	}
	s.have, s.value, s.at, s.since = true, value, asked, epoch
	return value, nil
}

// forget keeps every question asked so far from answering a later one.
func (s *shared[T]) forget() { s.epoch.Add(1) }
