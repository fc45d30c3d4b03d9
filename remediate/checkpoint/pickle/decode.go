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
	// Memory is an estimate of the memory that the values take at any moment, in
	// bytes. One byte of pickle can make a value of some 50 bytes.
	Memory int
	// StringBytes is the length of one string, bytes object or name.
	StringBytes int
	// Depth is how deep values may be nested.
	Depth int
}

// ErrLimit is in the chain of errors about a pickle that exceeds Limits.Bytes or
// Limits.Memory; it may be sound otherwise.
var ErrLimit = errors.New("over the limit")

// Reader says what a pickle may hold.
type Reader struct {
	Limits Limits
	// Allow says which names may be imported.
	Allow func(Global) bool
	// Convert, if not nil, may give another value to stand for an object, and
	// what that takes in bytes. It is asked when the object is called, and when it
	// is restored from its state, and keeps a pickle of many small objects small.
	// It must not follow values to any depth: they may contain themselves.
	Convert func(*Record) (v any, size int, err error)
}

// Decode runs the pickle in data, which has to fill data exactly, and gives the
// value that it leaves. Errors say at which byte the pickle was refused.
func (r *Reader) Decode(data []byte) (any, error) {
	if len(data) > r.Limits.Bytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrLimit, len(data), r.Limits.Bytes)
	}
	m := machine{Reader: r, input: input{data: data, maxString: r.Limits.StringBytes}}
	value, err := m.run()
	if err != nil {
		return nil, fmt.Errorf("pickle byte %d: %w", m.op, err)
	}
	if err := checkShape(value, m.shared, r.Limits.Depth); err != nil {
		return nil, fmt.Errorf("pickle: %w", err)
	}
	return value, nil
}

// machine is the stack machine.
type machine struct {
	*Reader
	input
	op int // where the current opcode stands

	stack []any
	marks []int // lengths of the stack at each MARK

	// The memo keeps only what is recalled later: most pickles store nearly every
	// value and recall few.
	recalled bitset
	memo     map[uint64]any
	stored   uint64       // memo entries so far, kept or not
	shared   map[any]bool // identities of the containers in the memo

	memory int // estimate of what the values take now
}

func (m *machine) run() (any, error) {
	if err := m.start(); err != nil {
		return nil, err
	}
	m.recalled, m.memo, m.shared = recalled(m.input), make(map[uint64]any), make(map[any]bool)
	for {
		m.op = m.at
		op, err := m.takeOpcode()
		if err != nil {
			return nil, err
		}
		if op == opStop {
			return m.stop()
		}
		if err := m.step(op); err != nil {
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

// slot is what a value takes wherever it stands: on the stack or in a container.
const slot = 16

// charge counts memory against the limit.
func (m *machine) charge(bytes int) error {
	m.memory += bytes
	if m.memory > m.Limits.Memory {
		return fmt.Errorf("%w: takes more than %d bytes of memory", ErrLimit, m.Limits.Memory)
	}
	return nil
}

// push puts a value on the stack that takes so many bytes besides its slot.
func (m *machine) push(v any, bytes int) error {
	m.stack = append(m.stack, v)
	return m.charge(slot + bytes)
}

// pop takes the top value, which must lie above the latest MARK.
func (m *machine) pop() (any, error) {
	top, err := m.peek()
	if err != nil {
		return nil, err
	}
	m.stack[len(m.stack)-1] = nil
	m.stack = m.stack[:len(m.stack)-1]
	return top, nil
}

// peek gives the top value and leaves it.
func (m *machine) peek() (any, error) {
	floor := 0
	if len(m.marks) > 0 {
		floor = m.marks[len(m.marks)-1]
	}
	if len(m.stack) <= floor {
		return nil, errors.New("takes a value from an empty stack")
	}
	return m.stack[len(m.stack)-1], nil
}

// popN takes the top n values, the topmost last.
func (m *machine) popN(n int) ([]any, error) {
	items := make([]any, n)
	for i := n - 1; i >= 0; i-- {
		item, err := m.pop()
		if err != nil {
			return nil, err
		}
		items[i] = item
	}
	return items, nil
}

// popMark takes all values above the latest MARK, and the MARK.
func (m *machine) popMark() ([]any, error) {
	if len(m.marks) == 0 {
		return nil, errors.New("no MARK on the stack")
	}
	from := m.marks[len(m.marks)-1]
	m.marks = m.marks[:len(m.marks)-1]
	items := append([]any(nil), m.stack[from:]...)
	clear(m.stack[from:])
	m.stack = m.stack[:from]
	return items, nil
}

// mark notes the height of the stack.
func (m *machine) mark() error {
	m.marks = append(m.marks, len(m.stack))
	return m.charge(slot)
}

// store puts the top value into the memo. CPython numbers its entries from 0
// without gaps; an entry stored twice would make what is recalled ambiguous.
func (m *machine) store(index uint64) error {
	top, err := m.peek()
	if err != nil {
		return err
	}
	if index != m.stored {
		return fmt.Errorf("memo entry %d stored after %d entries", index, m.stored)
	}
	m.stored++
	if !m.recalled.has(index) {
		return nil
	}
	m.memo[index] = top
	if r, ok := top.(*Record); ok {
		r.memo = append(r.memo, index)
	}
	if id := identity(top); id != nil {
		m.shared[id] = true
	}
	return m.charge(8 * slot)
}

// recall pushes a stored value.
func (m *machine) recall(index uint64) error {
	v, ok := m.memo[index]
	if !ok {
		return fmt.Errorf("memo entry %d of %d recalled", index, m.stored)
	}
	if r, ok := v.(*Record); ok {
		r.used = true
	}
	return m.push(v, 0)
}

// input is the pickle and how far it is read.
type input struct {
	data      []byte
	at        int // next byte
	maxString int
}

// highestProtocol is the newest pickle protocol that this reader knows.
const highestProtocol = 5

// start reads the protocol.
func (in *input) start() error {
	head, err := in.take(2)
	if err != nil {
		return err
	}
	if opcode(head[0]) != opProto || head[1] < 2 || head[1] > highestProtocol {
		return fmt.Errorf("not a pickle of protocol 2 to %d: starts with %#02x %#02x", highestProtocol, head[0], head[1])
	}
	return nil
}

// take gives the next n bytes of the input.
func (in *input) take(n int) ([]byte, error) {
	if n > len(in.data)-in.at {
		return nil, fmt.Errorf("truncated: %d bytes wanted, %d left", n, len(in.data)-in.at)
	}
	b := in.data[in.at : in.at+n]
	in.at += n
	return b, nil
}

func (in *input) takeOpcode() (opcode, error) {
	b, err := in.take(1)
	if err != nil {
		return 0, err
	}
	return opcode(b[0]), nil
}

// takeUint gives a little-endian number of size bytes.
func (in *input) takeUint(size int) (uint64, error) {
	b, err := in.take(size)
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
func (in *input) takeCounted(size int) ([]byte, error) {
	n, err := in.takeUint(size)
	if err != nil {
		return nil, err
	}
	if n > uint64(in.maxString) {
		return nil, fmt.Errorf("a string of %d bytes, at most %d", n, in.maxString)
	}
	return in.take(int(n))
}

// takeLine gives the bytes up to a newline, without it.
func (in *input) takeLine() (string, error) {
	line := in.data[in.at:min(len(in.data), in.at+in.maxString+1)]
	end := bytes.IndexByte(line, '\n')
	if end < 0 {
		return "", errors.New("a name without end")
	}
	in.at += end + 1
	return string(line[:end]), nil
}
