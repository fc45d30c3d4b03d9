package pickle

import (
	"bytes"
	"errors"
	"fmt"
)

// Limits bound what one pickle may cost to read.
type Limits struct {
	// Bytes is the length of the pickle.
	Bytes int
	// Values is the number of values that it makes, each about 100 bytes of
	// memory at most, strings not counted.
	Values int
	// StringBytes is the length of one string, bytes object or name.
	StringBytes int
	// Depth is how deep values may be nested.
	Depth int
}

// ErrLimit is in the chain of errors about a pickle that exceeds its limits; it
// may be sound otherwise.
var ErrLimit = errors.New("over the limit")

// Decode runs the pickle in data, which has to fill data exactly, and gives the
// value that it leaves. Allow says which names may be imported. Errors say at
// which byte the pickle was refused.
func Decode(data []byte, limits Limits, allow func(Global) bool) (any, error) {
	if len(data) > limits.Bytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrLimit, len(data), limits.Bytes)
	}
	m := machine{data: data, limits: limits, allow: allow}
	value, err := m.run()
	if err != nil {
		return nil, fmt.Errorf("pickle byte %d: %w", m.op, err)
	}
	if err := checkShape(value, limits.Depth); err != nil {
		return nil, fmt.Errorf("pickle: %w", err)
	}
	return value, nil
}

// machine is the stack machine.
type machine struct {
	data   []byte
	at     int // next byte
	op     int // where the current opcode stands
	limits Limits
	allow  func(Global) bool

	stack  []any
	marks  []int // lengths of the stack at each MARK
	memo   []any
	values int // made so far
}

// highestProtocol is the newest pickle protocol that this reader knows.
const highestProtocol = 5

func (m *machine) run() (any, error) {
	head, err := m.take(2)
	if err != nil {
		return nil, err
	}
	if opcode(head[0]) != opProto || head[1] < 2 || head[1] > highestProtocol {
		return nil, fmt.Errorf("not a pickle of protocol 2 to %d: starts with %#02x %#02x", highestProtocol, head[0], head[1])
	}
	for {
		m.op = m.at
		b, err := m.take(1)
		if err != nil {
			return nil, err
		}
		if opcode(b[0]) == opStop {
			return m.stop()
		}
		if err := m.step(opcode(b[0])); err != nil {
			return nil, err
		}
	}
}

// stop gives the result: the only value left.
func (m *machine) stop() (any, error) {
	switch {
	case len(m.marks) != 0:
		return nil, errors.New("ends inside a MARK")
	case len(m.stack) != 1:
		return nil, fmt.Errorf("ends with %d values, not one", len(m.stack))
	case m.at != len(m.data):
		return nil, fmt.Errorf("%d bytes after the end", len(m.data)-m.at)
	}
	return m.stack[0], nil
}

// take gives the next n bytes of the input.
func (m *machine) take(n int) ([]byte, error) {
	if n > len(m.data)-m.at {
		return nil, fmt.Errorf("truncated: %d bytes wanted, %d left", n, len(m.data)-m.at)
	}
	b := m.data[m.at : m.at+n]
	m.at += n
	return b, nil
}

// takeUint gives a little-endian number of size bytes.
func (m *machine) takeUint(size int) (uint64, error) {
	b, err := m.take(size)
	if err != nil {
		return 0, err
	}
	var n uint64
	for i, digit := range b {
		n |= uint64(digit) << (8 * i)
	}
	return n, nil
}

// takeCounted gives a run of bytes that is preceded by its length, itself of
// size bytes.
func (m *machine) takeCounted(size int) ([]byte, error) {
	n, err := m.takeUint(size)
	if err != nil {
		return nil, err
	}
	if n > uint64(m.limits.StringBytes) {
		return nil, fmt.Errorf("%w: a string of %d bytes, at most %d", ErrLimit, n, m.limits.StringBytes)
	}
	return m.take(int(n))
}

// takeLine gives the bytes up to a newline, without it.
func (m *machine) takeLine() (string, error) {
	line := m.data[m.at:min(len(m.data), m.at+m.limits.StringBytes+1)]
	end := bytes.IndexByte(line, '\n')
	if end < 0 {
		return "", errors.New("a name without end")
	}
	m.at += end + 1
	return string(line[:end]), nil
}

// push makes a value, which counts against the limit.
func (m *machine) push(v any) error {
	if m.values >= m.limits.Values {
		return fmt.Errorf("%w: more than %d values", ErrLimit, m.limits.Values)
	}
	m.values++
	m.stack = append(m.stack, v)
	return nil
}

// pop takes the top value, which must lie above the latest MARK.
func (m *machine) pop() (any, error) {
	if len(m.stack) <= m.floor() {
		return nil, errors.New("takes a value from an empty stack")
	}
	top := m.stack[len(m.stack)-1]
	m.stack = m.stack[:len(m.stack)-1]
	return top, nil
}

// peek gives the top value and leaves it.
func (m *machine) peek() (any, error) {
	if len(m.stack) <= m.floor() {
		return nil, errors.New("looks at an empty stack")
	}
	return m.stack[len(m.stack)-1], nil
}

func (m *machine) floor() int {
	if len(m.marks) == 0 {
		return 0
	}
	return m.marks[len(m.marks)-1]
}

// popMark takes all values above the latest MARK, and the MARK.
func (m *machine) popMark() ([]any, error) {
	if len(m.marks) == 0 {
		return nil, errors.New("no MARK on the stack")
	}
	from := m.marks[len(m.marks)-1]
	m.marks = m.marks[:len(m.marks)-1]
	items := append([]any(nil), m.stack[from:]...)
	m.stack = m.stack[:from]
	return items, nil
}

// mark notes the height of the stack. Marks count as values: each costs memory.
func (m *machine) mark() error {
	if m.values >= m.limits.Values {
		return fmt.Errorf("%w: more than %d values", ErrLimit, m.limits.Values)
	}
	m.values++
	m.marks = append(m.marks, len(m.stack))
	return nil
}

// memoize stores the top value. CPython numbers its memo from 0 without gaps,
// so an index beyond the next one is refused rather than grown to.
func (m *machine) memoize(index uint64) error {
	top, err := m.peek()
	if err != nil {
		return err
	}
	switch {
	case index < uint64(len(m.memo)):
		m.memo[index] = top
	case index == uint64(len(m.memo)):
		m.memo = append(m.memo, top)
	default:
		return fmt.Errorf("memo entry %d stored after %d entries", index, len(m.memo))
	}
	return nil
}

// recall pushes a stored value.
func (m *machine) recall(index uint64) error {
	if index >= uint64(len(m.memo)) {
		return fmt.Errorf("memo entry %d of %d recalled", index, len(m.memo))
	}
	return m.push(m.memo[index])
}
