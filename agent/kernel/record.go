package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"
)

// kernelFacility is the syslog facility of what the kernel itself logs. Whoever
// writes to /dev/kmsg gets another one.
const kernelFacility = 0

// Record is one record of the kernel log.
type Record struct {
	Facility uint32 // syslog facility, 0 for the kernel's own
	Level    uint32 // syslog level, 0 (emergency) to 7 (debug)
	Sequence uint64
	// Uptime is the time since boot, on a clock that stands still in suspend.
	Uptime time.Duration
	// Fragment marks a piece of a line. The pieces are not joined: others' records
	// may stand between them.
	Fragment bool
	// Message is unescaped; it shares the memory of the raw record where nothing
	// was escaped.
	Message []byte
}

// FromKernel reports whether the kernel itself logged the record.
func (r *Record) FromKernel() bool { return r.Facility == kernelFacility }

var errNoMessage = errors.New("no ';' after the header")

// ParseRecord reads one raw record: "prio,seq,usec,flags[,key=value…];message",
// a newline, and lines of the dictionary, which begin with a space and are
// ignored (Documentation/ABI/testing/dev-kmsg).
func ParseRecord(raw []byte) (Record, error) {
	var r Record
	header, body, found := bytes.Cut(raw, []byte(";"))
	if !found {
		return r, errNoMessage
	}
	prio, rest, err := number("priority", header, math.MaxUint32)
	if err != nil {
		return r, err
	}
	r.Facility, r.Level = uint32(prio>>3), uint32(prio&7)
	if r.Sequence, rest, err = number("sequence", rest, math.MaxUint64); err != nil {
		return r, err
	}
	usec, rest, err := number("time", rest, math.MaxInt64/uint64(time.Microsecond))
	if err != nil {
		return r, err
	}
	r.Uptime = time.Duration(usec) * time.Microsecond
	flags, _, _ := bytes.Cut(rest, []byte(","))
	r.Fragment = bytes.ContainsAny(flags, "c+")
	message, _, _ := bytes.Cut(body, []byte("\n"))
	r.Message = unescape(message)
	return r, nil
}

// number reads the decimal field that ends at the next comma, or at the end.
func number(field string, b []byte, limit uint64) (n uint64, rest []byte, err error) {
	digits, rest, _ := bytes.Cut(b, []byte(","))
	if len(digits) == 0 {
		return 0, nil, fmt.Errorf("%s: missing", field)
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, nil, fmt.Errorf("%s: %.32q is not a number", field, digits)
		}
		d := uint64(c - '0')
		if n > (limit-d)/10 {
			return 0, nil, fmt.Errorf("%s: %.32q is too large", field, digits)
		}
		n = n*10 + d
	}
	return n, rest, nil
}

// unescape replaces \xNN by the byte; the kernel escapes so what is not
// printable, and the backslash.
func unescape(b []byte) []byte {
	at := bytes.IndexByte(b, '\\')
	if at < 0 {
		return b
	}
	out := append(make([]byte, 0, len(b)), b[:at]...)
	for i := at; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) && b[i+1] == 'x' {
			hi, lo := hexDigit(b[i+2]), hexDigit(b[i+3])
			if hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				i += 3
				continue
			}
		}
		out = append(out, b[i])
	}
	return out
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
