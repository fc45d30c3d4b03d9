package remotewrite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// A segment file is a row of records:
//
//	length  u32  bytes of body
//	body    u32  crc32c of the body
//	time    i64  of its oldest sample, ms since 1970
//	samples u32
//	header  u32  crc32c of the 20 bytes before
//	body    [length]byte
//
// all little-endian. The header has a checksum of its own, so that after damage
// the next record is found by looking for a header that is whole, and so that a
// record whose body is damaged still says how many samples are lost with it.
const (
	headerBytes   = 24
	maxRecordBody = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header describes one record.
type header struct {
	length  int
	bodyCRC uint32
	time    int64
	samples int
}

func newHeader(body Body) header {
	return header{
		length:  len(body.Content),
		bodyCRC: crc32.Checksum(body.Content, castagnoli),
		time:    body.Time,
		samples: body.Samples,
	}
}

func (h header) append(b []byte) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.length))
	b = binary.LittleEndian.AppendUint32(b, h.bodyCRC)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.time))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.samples))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// parseHeader reads a header from the first headerBytes of b; false if it is not
// one that this package wrote.
func parseHeader(b []byte) (header, bool) {
	if len(b) < headerBytes || crc32.Checksum(b[:headerBytes-4], castagnoli) != binary.LittleEndian.Uint32(b[headerBytes-4:]) {
		return header{}, false
	}
	length, samples := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[16:])
	if length > maxRecordBody || samples > math.MaxInt32 {
		return header{}, false
	}
	return header{
		length:  int(length),
		bodyCRC: binary.LittleEndian.Uint32(b[4:]),
		time:    int64(binary.LittleEndian.Uint64(b[8:])),
		samples: int(samples),
	}, true
}

// location is where a record lies in its segment.
type location struct {
	header
	offset int64
}

func (l location) end() int64 { return l.offset + headerBytes + int64(l.length) }

// damage is what scanning a segment found that was not a whole record.
type damage struct {
	places  int // runs of bytes that are no record, and records cut short
	samples int // samples known to be lost in records cut short
}

// scanSegment lists the records of a segment of the given size from offset on.
// Only headers are read; bodies are verified when they are needed.
func scanSegment(r io.ReaderAt, offset, size int64) (records []location, found damage, err error) {
	var b [headerBytes]byte
	for offset < size {
		h, ok := header{}, false
		if size-offset >= headerBytes {
			if _, err := r.ReadAt(b[:], offset); err != nil {
				return records, found, fmt.Errorf("read record header at %d: %w", offset, err)
			}
			h, ok = parseHeader(b[:])
		}
		if !ok {
			found.places++
			if offset, err = nextHeader(r, offset+1, size); err != nil {
				return records, found, err
			}
			continue
		}
		l := location{header: h, offset: offset}
		if l.end() > size {
			// Cut short, unless the damage is in the middle of the file and a whole
			// record follows inside what claims to be the body.
			found.places++
			found.samples += h.samples
			if offset, err = nextHeader(r, offset+1, size); err != nil {
				return records, found, err
			}
			continue
		}
		records = append(records, l)
		offset = l.end()
	}
	return records, found, nil
}

// nextHeader gives the first offset at or after from at which a whole header
// stands, or size if there is none.
func nextHeader(r io.ReaderAt, from, size int64) (int64, error) {
	window := make([]byte, 64<<10)
	for from+headerBytes <= size {
		n, err := r.ReadAt(window[:min(int64(len(window)), size-from)], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return size, fmt.Errorf("look for a record after %d: %w", from, err)
		}
		if n < headerBytes {
			break
		}
		for i := range n - headerBytes + 1 {
			if _, ok := parseHeader(window[i:n]); ok {
				return from + int64(i), nil
			}
		}
		from += int64(n - headerBytes + 1)
	}
	return size, nil
}

// errCorrupt is in the chain of readBody's error when the body was read and is
// not what was written.
var errCorrupt = errors.New("checksum does not match")

// readBody reads and verifies the body of a record into buf, which it may grow.
func readBody(r io.ReaderAt, l location, buf []byte) ([]byte, error) {
	if cap(buf) < l.length {
		buf = make([]byte, l.length)
	}
	buf = buf[:l.length]
	if _, err := r.ReadAt(buf, l.offset+headerBytes); err != nil {
		return buf, fmt.Errorf("read record body at %d: %w", l.offset, err)
	}
	if crc32.Checksum(buf, castagnoli) != l.bodyCRC {
		return buf, fmt.Errorf("record at %d: %w", l.offset, errCorrupt)
	}
	return buf, nil
}
