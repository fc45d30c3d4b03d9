package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// PoolConfig paces scraping.
type PoolConfig struct {
	// Interval is the time between two scrapes of one target.
	Interval time.Duration `yaml:"scrape_interval"`
	// Timeout bounds one scrape.
	Timeout time.Duration `yaml:"scrape_timeout"`
	// Concurrency bounds how many scrapes run at once.
	Concurrency int `yaml:"scrape_concurrency"`
}

// Validate names what cannot work.
func (c PoolConfig) Validate() error {
	var errs []error
	if c.Interval < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("scrape_interval: must be at least 100ms, got %s", c.Interval))
	}
	if c.Timeout <= 0 || c.Timeout > c.Interval {
		errs = append(errs, fmt.Errorf("scrape_timeout: must be above 0 and at most scrape_interval, got %s", c.Timeout))
	}
	if c.Concurrency < 1 || c.Concurrency > 1024 {
		errs = append(errs, fmt.Errorf("scrape_concurrency: must be 1 to 1024, got %d", c.Concurrency))
	}
	return errors.Join(errs...)
}

// Result is the outcome of one scrape.
type Result struct {
	Target   Target
	At       time.Time
	Readings []Reading
	// Err is why there are no readings; ErrNoSeries in its chain if the engine
	// answered.
	Err error
}

// Pool scrapes targets, each by its own schedule.
type Pool struct {
	config  PoolConfig
	mapping *Mapping
	client  *http.Client
	deliver func(Result)
	logger  *slog.Logger
	slots   chan struct{}
	running map[Target]context.CancelFunc
	done    sync.WaitGroup
}

// NewPool makes a pool without targets. deliver is called from many goroutines.
func NewPool(config PoolConfig, mapping *Mapping, client *http.Client, deliver func(Result), logger *slog.Logger) *Pool {
	return &Pool{
		config: config, mapping: mapping, client: client, deliver: deliver, logger: logger,
		slots: make(chan struct{}, config.Concurrency), running: make(map[Target]context.CancelFunc),
	}
}

// Apply makes the pool scrape exactly these targets until ctx ends. A target
// that stays keeps its schedule. Only one goroutine may call it.
func (p *Pool) Apply(ctx context.Context, targets []Target) {
	wanted := make(map[Target]bool, len(targets))
	for _, t := range targets {
		wanted[t] = true
		if p.running[t] != nil {
			continue
		}
		target, cancel := context.WithCancel(ctx)
		p.running[t] = cancel
		p.done.Go(func() { p.loop(target, t) })
	}
	for t, cancel := range p.running {
		if !wanted[t] {
			cancel()
			delete(p.running, t)
		}
	}
}

// Wait returns when all scraping has ended.
func (p *Pool) Wait() { p.done.Wait() }

// offset spreads targets over the interval, each at the same place after every
// restart, as Prometheus does.
func (p *Pool) offset(t Target) time.Duration {
	h := fnv.New64a()
	io.WriteString(h, t.URL)
	return time.Duration(h.Sum64() % uint64(p.config.Interval))
}

func (p *Pool) loop(ctx context.Context, t Target) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(p.offset(t)):
	}
	ticker := time.NewTicker(p.config.Interval)
	defer ticker.Stop()
	for last := (Result{}); ; {
		result, ok := p.scrapeInTurn(ctx, t)
		if !ok {
			return
		}
		p.logChange(last, result)
		p.deliver(result)
		last = result
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// scrapeInTurn scrapes once a slot is free; false if ctx ended.
func (p *Pool) scrapeInTurn(ctx context.Context, t Target) (Result, bool) {
	select {
	case <-ctx.Done():
		return Result{}, false
	case p.slots <- struct{}{}:
	}
	defer func() { <-p.slots }()
	result := p.scrape(ctx, t)
	return result, ctx.Err() == nil
}

func (p *Pool) logChange(last, now Result) {
	switch {
	case now.Err != nil && last.Err == nil:
		p.logger.Warn("Target cannot be scraped.", "target", now.Target.Address, "err", now.Err)
	case now.Err == nil && last.Err != nil:
		p.logger.Info("Target answers again.", "target", now.Target.Address)
	}
}

func (p *Pool) scrape(ctx context.Context, t Target) Result {
	ctx, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	result := Result{Target: t, At: time.Now()}
	result.Readings, result.Err = p.fetch(ctx, t, result.At)
	return result
}

func (p *Pool) fetch(ctx context.Context, t Target, at time.Time) ([]Reading, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, t.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", t.Address, err)
	}
	// OpenMetrics would give counters without their suffix and needs another
	// parser; every engine speaks the text format.
	request.Header.Set("Accept", "text/plain;version=0.0.4;q=1,*/*;q=0.1")
	response, err := p.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", t.Address, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("scrape %s: HTTP status %s", t.Address, response.Status)
	}
	readings, err := p.mapping.Read(response.Body, at)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", t.Address, err)
	}
	return readings, nil
}
