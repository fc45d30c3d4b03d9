package simdevice

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
)

// SourceName is the source's name in observations, coverage and metrics.
const SourceName = "device"

// hangPoll is how often a hung reading looks whether the file has changed.
const hangPoll = 20 * time.Millisecond

// Config says what to read and how often.
type Config struct {
	// Path is the JSON file. One that was never there is coverage absent.
	Path string
	// Node is the node's name, for the label Hostname.
	Node string
	// Interval is the time from one reading to the next, 1 s by default.
	Interval time.Duration
	// Deadline is how long a reading may take, 5 s by default: NVML answers in
	// milliseconds, and a driver that waits for a dead GSP blocks for 6 s.
	Deadline time.Duration
}

// Source is the simulated devices as a source of the agent.
type Source struct {
	config Config
	judge  *Judge
	seen   bool // the file was there
}

var _ source.Source = (*Source)(nil)

// New makes a source.
func New(c Config) *Source {
	if c.Interval <= 0 {
		c.Interval = time.Second
	}
	if c.Deadline <= 0 {
		c.Deadline = 5 * time.Second
	}
	return &Source{config: c, judge: NewJudge()}
}

// Name is "device".
func (s *Source) Name() string { return SourceName }

// Run reads once per interval until ctx ends. While a reading does not return no
// other is begun, and each interval says so.
func (s *Source) Run(ctx context.Context, emit func(source.Batch)) error {
	ticker := time.NewTicker(s.config.Interval)
	defer ticker.Stop()
	for {
		r := s.begin(ctx)
		b, returned := s.wait(ctx, r)
		for !returned && ctx.Err() == nil {
			emit(b)
			select {
			case <-ctx.Done():
			case <-r.done:
				b, returned = s.judged(r), true
			case <-ticker.C:
				b = s.stuck(r)
			}
		}
		if ctx.Err() != nil {
			return nil // a reading that still hangs ends with the process
		}
		emit(b)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// reading is one reading under way.
type reading struct {
	done chan struct{}
	// hanging is the document whose GPUs keep the reading from returning.
	hanging atomic.Pointer[Document]
	// document and err are set before done is closed.
	document *Document
	err      error
}

// begin starts a reading in its own goroutine, since it may hang.
func (s *Source) begin(ctx context.Context) *reading {
	r := &reading{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.document, r.err = read(ctx, s.config.Path, &r.hanging)
	}()
	return r
}

// wait gives the batch of a reading that returns within the deadline, or that of
// one that does not.
func (s *Source) wait(ctx context.Context, r *reading) (b source.Batch, returned bool) {
	deadline := time.NewTimer(s.config.Deadline)
	defer deadline.Stop()
	select {
	case <-ctx.Done():
		return source.Batch{}, false
	case <-r.done:
		return s.judged(r), true
	case <-deadline.C:
		return s.stuck(r), false
	}
}

// judged is the batch of a reading that returned.
func (s *Source) judged(r *reading) source.Batch {
	b := s.batch()
	switch {
	case errors.Is(r.err, fs.ErrNotExist) && !s.seen:
		b.Coverage, b.Simulated = fault.CoverageAbsent, false
	case r.err != nil:
		b.Coverage, b.Detail = fault.CoverageUnknown, r.err.Error()
	default:
		s.seen = true
		b.Coverage = fault.CoverageOK
		b.Observations = s.judge.Reading(b.Time, r.document)
		b.Processes = r.document.Processes
		for i := range r.document.GPUs {
			if g := &r.document.GPUs[i]; !g.Lost {
				b.Readings = append(b.Readings, g.readings(s.config.Node)...)
			}
		}
	}
	return b
}

// stuck is the batch of a reading that has not returned. The processes are known
// nevertheless: they are not asked of the driver.
func (s *Source) stuck(r *reading) source.Batch {
	b := s.batch()
	b.Coverage = fault.CoverageUnknown
	b.Detail = fmt.Sprintf("the reading has not returned within %s", s.config.Deadline)
	if d := r.hanging.Load(); d != nil {
		s.seen = true
		b.Observations = s.judge.Stuck(b.Time, d.Hung(), s.config.Deadline)
		b.Processes = d.Processes
	}
	return b
}

func (s *Source) batch() source.Batch {
	return source.Batch{Source: SourceName, Time: time.Now(), Simulated: true}
}

// read reads the file. It blocks while the file says that a GPU hangs, as a call
// into a driver would, having said so to hanging.
func read(ctx context.Context, path string, hanging *atomic.Pointer[Document]) (*Document, error) {
	for {
		d, before, err := load(path)
		if err != nil {
			return nil, err
		}
		if len(d.Hung()) == 0 {
			return d, nil
		}
		hanging.Store(d)
		if err := waitForChange(ctx, path, before); err != nil {
			return nil, err
		}
	}
}

func load(path string) (*Document, os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read devices: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("read devices: %w", err)
	}
	d, err := Decode(f)
	return d, info, err
}

// waitForChange returns when the path leads to something else than before.
func waitForChange(ctx context.Context, path string, before os.FileInfo) error {
	ticker := time.NewTicker(hangPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		now, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("read devices: %w", err)
		}
		if !os.SameFile(before, now) || now.Size() != before.Size() || !now.ModTime().Equal(before.ModTime()) {
			return nil
		}
	}
}
