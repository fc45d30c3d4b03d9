package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// answer is a transport that answers by itself.
type answer func(*http.Request) (*http.Response, error)

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

func exposition(body string) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Body: io.NopCloser(strings.NewReader(body))}, nil
}

var testMapping = &Mapping{Engine: "test", Ways: []Way{{Name: "w", Total: Series{Name: "asked"}, Device: Series{Name: "found"}}}}

// results collects what a pool delivers.
type results struct {
	mu  sync.Mutex
	all []Result
}

func (r *results) add(one Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, one)
}

// take gives what came since the last call.
func (r *results) take() []Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

func testPool(config PoolConfig, transport answer) (*Pool, *results) {
	r := &results{}
	return NewPool(config, testMapping, &http.Client{Transport: transport}, r.add, slog.New(slog.DiscardHandler)), r
}

func testTargets(n int) []Target {
	targets := make([]Target, n)
	for i := range targets {
		address := fmt.Sprintf("engine-%d:8000", i)
		targets[i] = Target{Address: address, URL: "http://" + address + "/metrics", Model: "m", Replica: "r0"}
	}
	return targets
}

const asked = "# TYPE asked counter\nasked 10\n# TYPE found counter\nfound 4\n"

var everyTenSeconds = PoolConfig{Interval: 10 * time.Second, Timeout: 2 * time.Second, Concurrency: 4}

func TestPoolScrapesEachTargetOncePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		pool, got := testPool(everyTenSeconds, func(*http.Request) (*http.Response, error) { return exposition(asked) })
		pool.Apply(ctx, testTargets(20))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		first := got.take()
		starts := make(map[time.Time]bool)
		for _, r := range first {
			starts[r.At] = true
			if r.Err != nil || len(r.Readings) != 1 || r.Readings[0].Tokens.Device != 4 || r.Readings[0].Tokens.Computed != 6 {
				t.Errorf("result %+v", r)
			}
		}
		if len(first) != 20 || len(starts) != 20 {
			t.Errorf("%d scrapes at %d different times in one interval, want 20 at 20", len(first), len(starts))
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := len(got.take()); n != 60 {
			t.Errorf("%d scrapes in 3 intervals, want 60", n)
		}
		cancel()
		pool.Wait()
	})
}

func TestPoolFollowsTheTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		pool, got := testPool(everyTenSeconds, func(*http.Request) (*http.Response, error) { return exposition(asked) })
		three := testTargets(3)
		pool.Apply(ctx, three)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		got.take()
		pool.Apply(ctx, three[:1])
		time.Sleep(20 * time.Second)
		synctest.Wait()
		left := got.take()
		for _, r := range left {
			if r.Target != three[0] {
				t.Errorf("%s was scraped after it was dropped", r.Target.Address)
			}
		}
		if len(left) != 2 {
			t.Errorf("%d scrapes of the target that stayed in 2 intervals, want 2", len(left))
		}
		cancel()
		pool.Wait()
	})
}

// A target that never answers costs its own time-out, and a slot meanwhile, but
// keeps no other from being scraped.
func TestPoolWithATargetThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		running, most := 0, 0
		pool, got := testPool(PoolConfig{Interval: 10 * time.Second, Timeout: 2 * time.Second, Concurrency: 2}, func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			defer func() { mu.Lock(); running--; mu.Unlock() }()
			if r.URL.Host == "engine-0:8000" {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			time.Sleep(100 * time.Millisecond)
			return exposition(asked)
		})
		pool.Apply(ctx, testTargets(10))
		time.Sleep(22 * time.Second)
		synctest.Wait()
		good, bad := 0, 0
		for _, r := range got.take() {
			switch {
			case r.Err == nil:
				good++
			case errors.Is(r.Err, context.DeadlineExceeded) && r.Target.Address == "engine-0:8000":
				bad++
			default:
				t.Errorf("result %+v", r)
			}
		}
		if good < 18 || bad < 1 || most > 2 {
			t.Errorf("%d good and %d bad scrapes, %d at once, want at least 18 and 1, at most 2", good, bad, most)
		}
		cancel()
		pool.Wait()
	})
}

func TestScrapeErrors(t *testing.T) {
	tests := []struct {
		name   string
		answer answer
		want   string
		empty  bool
	}{
		{"refused", func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }, "connection refused", false},
		{"not found", func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 404, Status: "404 Not Found", Body: http.NoBody}, nil
		}, "HTTP status 404", false},
		{"no series", func(*http.Request) (*http.Response, error) { return exposition("up 1\n") }, "no usable token series", true},
		{"a histogram of that name", func(*http.Request) (*http.Response, error) {
			return exposition("# TYPE asked histogram\nasked_bucket{le=\"+Inf\"} 3\nasked_sum 3\nasked_count 3\n# TYPE found counter\nfound 1\n")
		}, "no usable token series", true},
	}
	for _, test := range tests {
		pool, _ := testPool(everyTenSeconds, test.answer)
		got := pool.scrape(t.Context(), testTargets(1)[0])
		if got.Err == nil || !strings.Contains(got.Err.Error(), test.want) || errors.Is(got.Err, ErrNoSeries) != test.empty {
			t.Errorf("%s: scrape() = %v, want %q", test.name, got.Err, test.want)
		}
	}
}
