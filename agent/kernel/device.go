package kernel

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
)

// maxRecord is the size of the buffer for one record of the device; the kernel
// refuses to read into a smaller one than the record (8 KiB at most).
const maxRecord = 16 << 10

// errEnded is a device that says it has no more records, which the kernel log never does.
var errEnded = errors.New("read kernel log: it ended")

// device is an open /dev/kmsg: each read gives one record.
type device interface {
	Read(b []byte) (int, error)
	SetReadDeadline(t time.Time) error
}

// followDevice reads records from the oldest that the kernel still has.
func (s *Source) followDevice(d device, emit func(source.Batch)) error {
	buf := make([]byte, maxRecord)
	wall := func(uptime time.Duration) time.Time { return s.clock.wall(uptime, 0) }
	s.emit(emit, source.Batch{Coverage: fault.CoverageOK})
	for {
		if err := d.SetReadDeadline(time.Now().Add(s.config.Interval)); err != nil {
			return fmt.Errorf("read kernel log: %w", err)
		}
		n, err := d.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR):
			// Quiet; or records were overwritten, which the next one's sequence counts.
		case err != nil:
			return fmt.Errorf("read kernel log: %w", err)
		case n == 0:
			return errEnded
		default:
			s.takeFromDevice(buf[:n], wall, emit)
		}
		s.alive(emit, false)
	}
}

func (s *Source) takeFromDevice(raw []byte, wall func(time.Duration) time.Time, emit func(source.Batch)) {
	r, err := ParseRecord(raw)
	if err != nil {
		s.malformed++
		return
	}
	observations := s.matcher.Match(&r, wall(r.Uptime))
	if r.Sequence < s.resume.Next {
		return // taken before the restart; the matcher has learned from it
	}
	s.records++
	if s.resume.Next > 0 {
		s.lost += r.Sequence - s.resume.Next
	}
	s.resume.Next = r.Sequence + 1
	if len(observations) > 0 {
		s.emit(emit, source.Batch{Observations: observations, Coverage: fault.CoverageOK})
	}
}
