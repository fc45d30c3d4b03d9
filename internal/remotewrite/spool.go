package remotewrite

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// segmentBytes is the size at which a new segment file begins: small enough
// that space comes back soon, large enough that files stay few.
const segmentBytes = 1 << 20

const (
	segmentSuffix = ".segment"
	cursorName    = "cursor"
	lockName      = "lock"
)

// Spool keeps bodies on disk until they are sent or given up. Bodies leave in
// the order in which they came. It is safe for concurrent use by any number of
// goroutines that append and one that sends.
//
// The place of each waiting body is kept in memory (48 bytes each); the bodies
// are not. A segment file is removed once nothing in it waits any more, or when
// the space is needed. Each start begins a new segment, so that nothing is ever
// written behind a torn record.
type Spool struct {
	dir          string
	maxBytes     int64
	maxAge       time.Duration
	segmentBytes int64
	metrics      *metrics
	logger       *slog.Logger
	lock         *os.File
	ready        chan struct{} // holds a token after an append

	// mu guards everything that follows.
	mu       sync.Mutex
	segments []*segment // oldest first
	active   *os.File   // what the last segment is written through; nil when a new one is due
	nextID   uint64
	waiting  []waiting // oldest first
	samples  int       // sum over waiting and inFlight
	inFlight *waiting  // handed out by Next and not settled
	reading  *os.File  // the segment that inFlight came from
	readID   uint64
	scratch  []byte
	complain *complainer
}

type segment struct {
	id      uint64
	size    int64 // bytes of whole records, and of damage found at start
	waiting int   // records not settled
}

type waiting struct {
	segment *segment
	location
}

// Record is a body handed out for sending.
type Record struct {
	Body
}

// SpoolState sums up what waits.
type SpoolState struct {
	Bytes   int64 // on disk
	Samples int
	Oldest  int64 // ms since 1970, 0 when nothing waits
}

// OpenSpool opens the spool in a folder, which it makes if need be, and finds
// what an earlier process left unsent. The folder belongs to one process at a
// time.
func OpenSpool(dir string, limits SpoolConfig, m *metrics, logger *slog.Logger) (*Spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make spool folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open spool lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("spool %s is in use by another process: %w", dir, err)
	}
	s := &Spool{
		dir:          dir,
		maxBytes:     limits.MaxBytes,
		maxAge:       limits.MaxAge,
		segmentBytes: min(segmentBytes, max(limits.MaxBytes/4, 1)),
		metrics:      m,
		logger:       logger,
		lock:         lock,
		ready:        make(chan struct{}, 1),
		complain:     newComplainer(logger),
	}
	if err := s.recover(); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("recover spool %s: %w", dir, err)
	}
	return s, nil
}

// recover indexes the segments that an earlier process left.
func (s *Spool) recover() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	done, err := readCursor(filepath.Join(s.dir, cursorName))
	if err != nil {
		// Without a cursor everything is sent again; a store takes a repeated sample
		// or refuses it, and neither loses one.
		s.logger.Warn("Sending all of the spool again", "err", err)
	}
	var ids []uint64
	for _, entry := range entries {
		number, ok := strings.CutSuffix(entry.Name(), segmentSuffix)
		id, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil || !entry.Type().IsRegular() {
			continue
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	s.nextID = done.segment + 1
	for _, id := range ids {
		s.nextID = max(s.nextID, id+1)
		if id < done.segment {
			// Settled before the process ended; only its removal is missing.
			s.remove(id)
			continue
		}
		offset := int64(0)
		if id == done.segment {
			offset = done.offset
		}
		if err := s.recoverSegment(id, offset); err != nil {
			return err
		}
	}
	return nil
}

func (s *Spool) recoverSegment(id uint64, offset int64) error {
	f, err := os.Open(s.path(id))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	records, found, err := scanSegment(f, offset, info.Size())
	if err != nil {
		// What could be read is sent; the rest is on a disk that does not give it.
		s.logger.Error("Part of the spool cannot be read", "segment", id, "err", err)
		found.places++
	}
	if found.places > 0 {
		s.metrics.corruptions.Add(float64(found.places))
		s.metrics.drop(dropCorrupt, found.samples)
		s.logger.Warn("Part of the spool is damaged", "segment", id, "places", found.places, "samples_known_lost", found.samples)
	}
	if len(records) == 0 {
		s.remove(id)
		return nil
	}
	seg := &segment{id: id, size: info.Size(), waiting: len(records)}
	s.segments = append(s.segments, seg)
	for _, l := range records {
		s.waiting = append(s.waiting, waiting{segment: seg, location: l})
		s.samples += l.samples
	}
	s.signal()
	return nil
}

// Append puts a body behind all others. What does not fit, or what the disk
// does not take, is dropped and counted; the caller has nothing to handle.
func (s *Spool) Append(body Body, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropOld(now)
	if err := s.append(body); err != nil {
		s.complain.about("append", "Samples lost: the spool could not be written", "samples", body.Samples, "err", err)
		return
	}
	s.metrics.samples.Add(float64(body.Samples))
	s.signal()
}

func (s *Spool) append(body Body) error {
	need := int64(headerBytes + len(body.Content))
	if need > s.maxBytes || len(body.Content) > maxRecordBody {
		s.metrics.drop(dropSpoolFull, body.Samples)
		return fmt.Errorf("a body of %d bytes is larger than the spool may be", len(body.Content))
	}
	for s.bytes()+need > s.maxBytes {
		s.dropOldestSegment()
	}
	if s.active == nil {
		if err := s.beginSegment(); err != nil {
			s.metrics.drop(dropDisk, body.Samples)
			return err
		}
	}
	seg := s.segments[len(s.segments)-1]
	l := location{header: newHeader(body), offset: seg.size}
	s.scratch = append(l.header.append(s.scratch[:0]), body.Content...)
	if _, err := s.active.WriteAt(s.scratch, seg.size); err != nil {
		s.metrics.drop(dropDisk, body.Samples)
		// Whatever was written of it lies behind the last whole record.
		return errors.Join(err, s.endSegment(s.active.Truncate(seg.size) == nil))
	}
	seg.size = l.end()
	seg.waiting++
	s.waiting = append(s.waiting, waiting{segment: seg, location: l})
	s.samples += body.Samples
	if seg.size >= s.segmentBytes {
		return s.endSegment(false)
	}
	return nil
}

func (s *Spool) beginSegment() error {
	f, err := os.OpenFile(s.path(s.nextID), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	s.active = f
	s.segments = append(s.segments, &segment{id: s.nextID})
	s.nextID++
	return nil
}

// endSegment makes the next append begin a new segment, unless the one at hand
// can be kept.
func (s *Spool) endSegment(keep bool) error {
	if keep || s.active == nil {
		return nil
	}
	err := errors.Join(s.active.Sync(), s.active.Close())
	s.active = nil
	s.forgetSettled()
	return err
}

// Sync waits until what was appended would survive the loss of power.
func (s *Spool) Sync() {
	s.mu.Lock()
	f := s.active
	s.mu.Unlock()
	if f == nil {
		return
	}
	// The lock is not held: a slow disk must not hold up the sender. The file may
	// be closed meanwhile, and has then been synced.
	if err := f.Sync(); err != nil && !errors.Is(err, fs.ErrClosed) {
		s.complain.about("sync", "The spool could not be written through to the disk", "err", err)
	}
}

// Ready receives a value after something was appended.
func (s *Spool) Ready() <-chan struct{} { return s.ready }

func (s *Spool) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Next hands out the oldest body that is young enough and undamaged; false when
// none waits. It stays the next one until [Spool.Settle]. Its content is read
// into buf, which may be grown.
func (s *Spool) Next(now time.Time, buf []byte) (Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight != nil {
		panic("remotewrite: Next before Settle")
	}
	for {
		s.dropOld(now)
		if len(s.waiting) == 0 {
			return Record{}, false
		}
		w := s.pop()
		content, err := s.read(w, buf)
		if err == nil {
			s.inFlight = &w
			return Record{Body{Time: w.time, Samples: w.samples, Content: content}}, true
		}
		reason := dropDisk
		if errors.Is(err, errCorrupt) {
			reason = dropCorrupt
			s.metrics.corruptions.Inc()
		}
		s.settle(w, reason)
		s.complain.about("read", "Samples lost: the spool could not be read", "segment", w.segment.id, "samples", w.samples, "err", err)
	}
}

func (s *Spool) read(w waiting, buf []byte) ([]byte, error) {
	if s.reading == nil || s.readID != w.segment.id {
		s.closeReading()
		f, err := os.Open(s.path(w.segment.id))
		if err != nil {
			return nil, err
		}
		s.reading, s.readID = f, w.segment.id
	}
	return readBody(s.reading, w.location, buf)
}

// Settle ends the life of the body handed out last: sent, or given up for a
// reason. Only then does the place where a restart continues move on.
func (s *Spool) Settle(dropReason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight == nil {
		panic("remotewrite: Settle without Next")
	}
	w := *s.inFlight
	s.inFlight = nil
	s.settle(w, dropReason)
	if err := writeCursor(filepath.Join(s.dir, cursorName), position{w.segment.id, w.end()}); err != nil {
		// The body would be sent once more after a restart, which does no harm.
		s.complain.about("cursor", "The place in the spool could not be saved", "err", err)
	}
	s.forgetSettled()
}

// settle takes a record that is no longer in waiting off the books.
func (s *Spool) settle(w waiting, dropReason string) {
	w.segment.waiting--
	s.samples -= w.samples
	if dropReason != "" {
		s.metrics.drop(dropReason, w.samples)
	}
}

// TooOld reports whether a body of that time is to be given up.
func (s *Spool) TooOld(bodyTime int64, now time.Time) bool {
	return now.UnixMilli()-bodyTime > s.maxAge.Milliseconds()
}

func (s *Spool) dropOld(now time.Time) {
	for len(s.waiting) > 0 && s.TooOld(s.waiting[0].time, now) {
		s.settle(s.pop(), dropTooOld)
	}
	s.forgetSettled()
}

func (s *Spool) pop() waiting {
	w := s.waiting[0]
	s.waiting = s.waiting[1:]
	return w
}

// dropOldestSegment gives the oldest segment's space back, whatever waits in it.
// A body in flight is in memory and goes on.
func (s *Spool) dropOldestSegment() {
	oldest := s.segments[0]
	for len(s.waiting) > 0 && s.waiting[0].segment == oldest {
		s.settle(s.pop(), dropSpoolFull)
	}
	if len(s.segments) == 1 && s.active != nil {
		_ = s.active.Close() // about to be removed
		s.active = nil
	}
	s.segments = s.segments[1:]
	s.remove(oldest.id)
}

// forgetSettled removes the segments in which nothing waits.
func (s *Spool) forgetSettled() {
	for len(s.segments) > 0 && s.segments[0].waiting == 0 && (len(s.segments) > 1 || s.active == nil) {
		s.remove(s.segments[0].id)
		s.segments = s.segments[1:]
	}
}

func (s *Spool) remove(id uint64) {
	if s.reading != nil && s.readID == id {
		s.closeReading()
	}
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.complain.about("remove", "A spool segment could not be removed", "err", err)
	}
}

func (s *Spool) closeReading() {
	if s.reading != nil {
		_ = s.reading.Close() // opened for reading
		s.reading = nil
	}
}

func (s *Spool) path(id uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%020d%s", id, segmentSuffix))
}

func (s *Spool) bytes() int64 {
	var n int64
	for _, seg := range s.segments {
		n += seg.size
	}
	return n
}

// Pending sums up what waits, the body in flight included.
func (s *Spool) Pending() SpoolState {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := SpoolState{Bytes: s.bytes(), Samples: s.samples}
	switch {
	case s.inFlight != nil:
		state.Oldest = s.inFlight.time
	case len(s.waiting) > 0:
		state.Oldest = s.waiting[0].time
	}
	return state
}

// Close writes everything through and lets go of the folder. What waits stays.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeReading()
	var errs []error
	if s.active != nil {
		errs = append(errs, s.active.Sync(), s.active.Close())
		s.active = nil
	}
	errs = append(errs, s.lock.Close())
	return errors.Join(errs...)
}

var _ io.Closer = (*Spool)(nil)
