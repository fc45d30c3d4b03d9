package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/evenkeel/evenkeel/agent/health"
	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
)

const (
	// maxLine bounds a record of a file; what is longer is skipped and counted.
	maxLine = maxRecord
	// maxBatch bounds the observations of one batch while a long file is read.
	maxBatch = 256
	// fileClockTolerance is how old a record of a file can be, by its own time, for
	// that time to be believed. Whoever writes a file seldom has the clock of the
	// boot that the file stands for.
	fileClockTolerance = 10 * time.Second
)

// followFile reads a regular file to its end and waits for more. The folder is
// watched, since a rotated file is a new one under the old name.
func (s *Source) followFile(ctx context.Context, emit func(source.Batch)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch kernel log: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(s.config.Path)); err != nil {
		return fmt.Errorf("watch kernel log: %w", err)
	}
	t := &tail{path: s.config.Path}
	defer t.close()
	if err := t.open(s.resume); err != nil {
		return fmt.Errorf("open kernel log: %w", err)
	}
	poll := time.NewTicker(s.config.Interval)
	defer poll.Stop()
	s.emitted = time.Time{}
	for {
		if err := s.readFile(t, emit); err != nil {
			return fmt.Errorf("read kernel log: %w", err)
		}
		s.alive(emit, true)
		if err := waitForChange(ctx, watcher, poll.C, filepath.Base(s.config.Path)); err != nil {
			return err
		}
	}
}

// waitForChange returns when the file may have changed.
func waitForChange(ctx context.Context, w *fsnotify.Watcher, poll <-chan time.Time, name string) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll:
			return nil
		case _, ok := <-w.Errors: // events were lost: look
			if !ok {
				return fsnotify.ErrClosed
			}
			return nil
		case event, ok := <-w.Events:
			if !ok {
				return fsnotify.ErrClosed
			}
			if filepath.Base(event.Name) == name {
				return nil
			}
		}
	}
}

// readFile takes every whole line that is there.
func (s *Source) readFile(t *tail, emit func(source.Batch)) error {
	var observations []health.Observation
	flush := func() {
		if len(observations) > 0 {
			s.resume.Inode, s.resume.Offset = t.inode, t.taken
			s.emit(emit, source.Batch{Observations: observations, Coverage: fault.CoverageOK, Simulated: true})
			observations = nil
		}
	}
	wall := func(uptime time.Duration) time.Time { return s.clock.wall(uptime, fileClockTolerance) }
	err := t.read(func(line []byte) {
		if len(line) == 0 || line[0] == ' ' { // dictionary of the record before
			return
		}
		r, err := ParseRecord(line)
		if err != nil {
			s.malformed++
			return
		}
		s.records++
		observations = append(observations, s.matcher.Match(&r, wall(r.Uptime))...)
		if len(observations) >= maxBatch {
			flush()
		}
	})
	s.malformed += t.overlong
	t.overlong = 0
	flush()
	s.resume.Inode, s.resume.Offset = t.inode, t.taken
	return err
}

// tail reads the lines of a file that grows, is emptied, or is replaced.
type tail struct {
	path     string
	file     *os.File
	inode    uint64
	offset   int64 // of the next byte to read
	taken    int64 // behind the last whole line
	partial  []byte
	skipping bool // within a line that is too long
	overlong uint64
	buf      []byte
}

// open opens the file, at the position if it is still the same file.
func (t *tail) open(at position) error {
	t.close()
	f, err := os.Open(t.path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	t.file, t.inode = f, info.Sys().(*syscall.Stat_t).Ino
	t.rewind(0)
	if at.Inode == t.inode && at.Offset <= info.Size() {
		t.rewind(at.Offset)
	}
	return nil
}

func (t *tail) close() {
	if t.file != nil {
		t.file.Close()
		t.file = nil
	}
}

func (t *tail) rewind(offset int64) {
	t.offset, t.taken = offset, offset
	t.partial = t.partial[:0]
	t.skipping = false
}

// read gives every whole line up to the end of the file, and of the file that
// has taken its place.
func (t *tail) read(line func([]byte)) error {
	for {
		if err := t.readToEnd(line); err != nil {
			return err
		}
		replaced, err := t.replaced()
		if err != nil || !replaced {
			return err
		}
		if err := t.open(position{}); err != nil {
			return err
		}
	}
}

// replaced reports whether the path leads to another file now. A path that leads
// nowhere may be halfway through a rotation; the open file stays.
func (t *tail) replaced() (bool, error) {
	now, err := os.Stat(t.path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return now.Sys().(*syscall.Stat_t).Ino != t.inode, nil
}

func (t *tail) readToEnd(line func([]byte)) error {
	info, err := t.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < t.offset {
		t.rewind(0)
	}
	if t.buf == nil {
		t.buf = make([]byte, 64<<10)
	}
	for {
		n, err := t.file.ReadAt(t.buf, t.offset)
		t.split(t.buf[:n], line)
		t.offset += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// split gives the whole lines of chunk, the first joined to what was left over.
func (t *tail) split(chunk []byte, line func([]byte)) {
	at := t.offset
	for len(chunk) > 0 {
		end := bytes.IndexByte(chunk, '\n')
		if end < 0 {
			t.keep(chunk)
			return
		}
		at += int64(end) + 1
		t.taken = at
		switch {
		case t.skipping || len(t.partial)+end > maxLine:
			t.overlong++
		case len(t.partial) > 0:
			line(append(t.partial, chunk[:end]...))
		default:
			line(chunk[:end])
		}
		t.partial, t.skipping = t.partial[:0], false
		chunk = chunk[end+1:]
	}
}

// keep holds the beginning of a line whose end is not written yet.
func (t *tail) keep(chunk []byte) {
	if t.skipping || len(t.partial)+len(chunk) > maxLine {
		t.partial, t.skipping = t.partial[:0], true
		return
	}
	t.partial = append(t.partial, chunk...)
}
