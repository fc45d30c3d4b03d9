package kernel

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
)

// Config says what to read and how.
type Config struct {
	// Path is the kernel log: the device /dev/kmsg, or a regular file of raw
	// records, one a line, which stands in for it and whose findings are marked
	// as simulated. The file belongs to one boot: it is read from its beginning
	// when the boot id has changed. It may grow, be replaced, or be emptied; one
	// that is emptied and at once as long as before looks unchanged.
	Path string
	// BootID is the id of the present boot.
	BootID string
	// Interval is how often a quiet source says that it is alive, and how often it
	// retries and looks for changes that the file system did not announce. The
	// default is 1 s.
	Interval time.Duration
	// Resume is the last batch's Resume of the run before; nil for none.
	Resume []byte
}

// Source is the kernel log as a source of the agent.
type Source struct {
	config  Config
	clock   clock
	matcher *Matcher
	resume  position

	records, malformed, lost uint64
	emitted                  time.Time
}

var _ source.Source = (*Source)(nil)

// position is how far the log has been taken.
type position struct {
	BootID string `json:"boot_id"`
	// Next is the sequence number after the last record, of the device.
	Next uint64 `json:"next,omitempty"`
	// Inode and Offset tell how far a regular file was read.
	Inode  uint64 `json:"inode,omitempty"`
	Offset int64  `json:"offset,omitempty"`
}

// New makes a source. A resume position that does not parse or is of another boot
// is as none: the log is then read from its oldest record.
func New(c Config) *Source {
	if c.Interval <= 0 {
		c.Interval = time.Second
	}
	s := &Source{config: c, clock: systemClock, matcher: NewMatcher()}
	if json.Unmarshal(c.Resume, &s.resume) != nil || s.resume.BootID != c.BootID {
		s.resume = position{}
	}
	s.resume.BootID = c.BootID
	return s
}

// Name is "kernel".
func (s *Source) Name() string { return SourceName }

// Run reads the log until ctx ends. A log that cannot be read is coverage
// unknown, and is tried again.
func (s *Source) Run(ctx context.Context, emit func(source.Batch)) error {
	for {
		err := s.follow(ctx, emit)
		if ctx.Err() != nil {
			return nil
		}
		s.emit(emit, source.Batch{Coverage: fault.CoverageUnknown, Detail: err.Error()})
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.config.Interval):
		}
	}
}

// follow reads until the log can no longer be read, and says why.
func (s *Source) follow(ctx context.Context, emit func(source.Batch)) error {
	info, err := os.Stat(s.config.Path)
	if err != nil {
		return fmt.Errorf("open kernel log: %w", err)
	}
	switch mode := info.Mode(); {
	case mode&fs.ModeCharDevice != 0:
		f, err := os.OpenFile(s.config.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open kernel log: %w", err)
		}
		defer f.Close()
		defer context.AfterFunc(ctx, func() { f.Close() })()
		return s.followDevice(f, emit)
	case mode.IsRegular():
		return s.followFile(ctx, emit)
	}
	return fmt.Errorf("open kernel log: %s is neither a device nor a regular file", s.config.Path)
}

// alive emits a batch without observations if the last one is an interval ago.
func (s *Source) alive(emit func(source.Batch), simulated bool) {
	if s.clock.now().Sub(s.emitted) >= s.config.Interval {
		s.emit(emit, source.Batch{Coverage: fault.CoverageOK, Simulated: simulated})
	}
}

func (s *Source) emit(emit func(source.Batch), b source.Batch) {
	resume, err := json.Marshal(s.resume)
	if err != nil {
		panic("kernel: a position does not marshal: " + err.Error())
	}
	s.emitted = s.clock.now()
	b.Source, b.Time, b.Resume, b.Readings = SourceName, s.emitted, resume, s.readings()
	for i := range b.Observations {
		b.Observations[i].Simulated = b.Simulated
	}
	emit(b)
}

func (s *Source) readings() []source.Reading {
	counter := func(name, help string, value uint64, labels ...source.Label) source.Reading {
		return source.Reading{Name: name, Help: help, Type: source.Counter, Labels: labels, Value: float64(value)}
	}
	out := []source.Reading{
		counter("evenkeel_agent_kernel_records_total", "Kernel log records read.", s.records),
		counter("evenkeel_agent_kernel_malformed_records_total", "Kernel log records that could not be parsed.", s.malformed),
		counter("evenkeel_agent_kernel_lost_records_total", "Kernel log records that were overwritten before they were read.", s.lost),
	}
	for _, x := range s.matcher.Xids() {
		out = append(out, counter("evenkeel_agent_kernel_xids_total",
			"Xids (GPU) and SXids (NVSwitch) in the kernel log, by code; kind is empty for one that no fault kind stands for.", x.Count,
			source.Label{Name: "type", Value: x.Type}, source.Label{Name: "code", Value: x.Code}, source.Label{Name: "kind", Value: string(x.Kind)}))
	}
	return out
}

// clock is the wall clock and the time since boot.
type clock struct {
	now    func() time.Time
	uptime func() time.Duration
}

var systemClock = clock{now: time.Now, uptime: func() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}}

// wall gives the time of a record of the given uptime. One that lies ahead, or
// longer ago than limit (0 for none), was not stamped by this machine's clock; it
// then happened when it was read.
func (c clock) wall(uptime, limit time.Duration) time.Time {
	now := c.now()
	age := c.uptime() - uptime
	if age < 0 || limit > 0 && age > limit {
		return now
	}
	return now.Add(-age)
}
