package pickle

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// opcode is an instruction of the stack machine, named as in Python's
// pickletools.
type opcode byte

const (
	opMark            opcode = '('
	opStop            opcode = '.'
	opPop             opcode = '0'
	opPopMark         opcode = '1'
	opBinFloat        opcode = 'G'
	opBinInt          opcode = 'J'
	opBinInt1         opcode = 'K'
	opBinInt2         opcode = 'M'
	opNone            opcode = 'N'
	opReduce          opcode = 'R'
	opBinUnicode      opcode = 'X'
	opBinBytes        opcode = 'B'
	opShortBinBytes   opcode = 'C'
	opAppend          opcode = 'a'
	opBuild           opcode = 'b'
	opGlobal          opcode = 'c'
	opAppends         opcode = 'e'
	opBinGet          opcode = 'h'
	opLongBinGet      opcode = 'j'
	opBinPut          opcode = 'q'
	opLongBinPut      opcode = 'r'
	opSetItem         opcode = 's'
	opTuple           opcode = 't'
	opSetItems        opcode = 'u'
	opEmptyList       opcode = ']'
	opEmptyDict       opcode = '}'
	opEmptyTuple      opcode = ')'
	opProto           opcode = 0x80
	opNewObj          opcode = 0x81
	opTuple1          opcode = 0x85
	opTuple2          opcode = 0x86
	opTuple3          opcode = 0x87
	opNewTrue         opcode = 0x88
	opNewFalse        opcode = 0x89
	opLong1           opcode = 0x8a
	opLong4           opcode = 0x8b
	opShortBinUnicode opcode = 0x8c
	opBinUnicode8     opcode = 0x8d
	opBinBytes8       opcode = 0x8e
	opEmptySet        opcode = 0x8f
	opAddItems        opcode = 0x90
	opFrozenSet       opcode = 0x91
	opNewObjEx        opcode = 0x92
	opStackGlobal     opcode = 0x93
	opMemoize         opcode = 0x94
	opFrame           opcode = 0x95
	opByteArray8      opcode = 0x96
)

// operandBytes is the size of the number that follows the opcode: a value, a
// length, or a memo index.
func operandBytes(op opcode) int {
	switch op {
	case opBinInt1, opLong1, opShortBinUnicode, opShortBinBytes, opBinPut, opBinGet:
		return 1
	case opBinInt2:
		return 2
	case opBinInt, opLong4, opBinUnicode, opBinBytes, opLongBinPut, opLongBinGet:
		return 4
	case opBinFloat, opBinUnicode8, opBinBytes8, opByteArray8, opFrame:
		return 8
	}
	return 0
}

// What values take besides their slots, in bytes, as Go allocates them.
const (
	boxedNumber = 8
	header      = 24 // of a slice or a string
	container   = 32
	recordSize  = 192
)

// step executes one opcode.
func (m *machine) step(op opcode) error {
	switch op {
	case opNone:
		return m.push(nil, 0)
	case opNewTrue:
		return m.push(true, 0)
	case opNewFalse:
		return m.push(false, 0)
	case opBinInt, opBinInt1, opBinInt2, opLong1, opLong4, opBinFloat:
		return m.number(op)
	case opShortBinUnicode, opBinUnicode, opBinUnicode8:
		return m.text(op)
	case opShortBinBytes, opBinBytes, opBinBytes8, opByteArray8:
		return m.bytes(op)
	case opEmptyList:
		return m.push(&List{}, container)
	case opEmptyDict:
		return m.push(&Dict{}, container)
	case opEmptySet:
		return m.push(&Set{}, container)
	case opEmptyTuple:
		return m.push(Tuple{}, header)
	case opTuple, opTuple1, opTuple2, opTuple3, opFrozenSet:
		return m.closed(op)
	case opAppend, opAppends, opAddItems, opSetItem, opSetItems:
		return m.fill(op)
	case opGlobal, opStackGlobal:
		return m.global(op)
	case opReduce, opNewObj, opNewObjEx:
		return m.call(op)
	case opBuild:
		return m.build()
	case opMark, opPop, opPopMark, opFrame:
		return m.arrange(op)
	case opBinPut, opLongBinPut, opMemoize, opBinGet, opLongBinGet:
		return m.remember(op)
	}
	return fmt.Errorf("opcode %#02x is not one that plain data needs", byte(op))
}

// number pushes an int64 or a float64.
func (m *machine) number(op opcode) error {
	if op == opLong1 || op == opLong4 {
		n, err := m.takeLong(op)
		if err != nil {
			return err
		}
		return m.push(n, boxedNumber)
	}
	n, err := m.takeUint(operandBytes(op))
	if err != nil {
		return err
	}
	switch op {
	case opBinInt: // the only one of the short forms that has a sign
		return m.push(int64(int32(n)), boxedNumber)
	case opBinFloat: // the only big-endian operand
		return m.push(math.Float64frombits(bits.ReverseBytes64(n)), boxedNumber)
	}
	return m.push(int64(n), boxedNumber)
}

// takeLong gives an integer that is preceded by its length: little-endian, two's
// complement.
func (in *input) takeLong(op opcode) (int64, error) {
	length, err := in.takeUint(operandBytes(op))
	if err != nil {
		return 0, err
	}
	if length > 8 {
		return 0, fmt.Errorf("an integer of %d bytes does not fit 64 bits", length)
	}
	n, err := in.takeUint(int(length))
	if err != nil || length == 0 {
		return 0, err
	}
	unused := 64 - 8*length
	return int64(n<<unused) >> unused, nil
}

func (m *machine) text(op opcode) error {
	b, err := m.takeCounted(operandBytes(op))
	if err != nil {
		return err
	}
	if !utf8.Valid(b) {
		return errors.New("a string that is not UTF-8")
	}
	return m.push(string(b), header+len(b))
}

func (m *machine) bytes(op opcode) error {
	b, err := m.takeCounted(operandBytes(op))
	if err != nil {
		return err
	}
	return m.push(append(Bytes(nil), b...), header+len(b))
}

// closed makes a value of items that are complete before it: a tuple or a
// frozenset.
func (m *machine) closed(op opcode) error {
	var items []any
	var err error
	switch op {
	case opTuple, opFrozenSet:
		items, err = m.popMark()
	default:
		items, err = m.popN(1 + int(op-opTuple1))
	}
	if err != nil {
		return err
	}
	if op == opFrozenSet {
		return m.push(&Set{Items: items}, container)
	}
	return m.push(Tuple(items), header)
}

// fill adds items to the container below them.
func (m *machine) fill(op opcode) error {
	var items []any
	var err error
	switch op {
	case opAppend:
		items, err = m.popN(1)
	case opSetItem:
		items, err = m.popN(2)
	default:
		items, err = m.popMark()
	}
	if err != nil {
		return err
	}
	target, err := m.peek()
	if err != nil {
		return err
	}
	if op == opSetItem || op == opSetItems {
		return setItems(target, items)
	}
	switch into := target.(type) {
	case *List:
		if op != opAddItems {
			into.Items = append(into.Items, items...)
			return nil
		}
	case *Set:
		if op == opAddItems {
			into.Items = append(into.Items, items...)
			return nil
		}
	case *Record:
		into.Items = append(into.Items, items...)
		return nil
	}
	return fmt.Errorf("adds items to a %T", target)
}

// setItems adds alternating keys and values.
func setItems(target any, items []any) error {
	if len(items)%2 != 0 {
		return errors.New("a dict key without a value")
	}
	var pairs *[]Pair
	switch into := target.(type) {
	case *Dict:
		pairs = &into.Pairs
	case *Record:
		pairs = &into.Pairs
	default:
		return fmt.Errorf("sets entries of a %T", target)
	}
	for i := 0; i < len(items); i += 2 {
		*pairs = append(*pairs, Pair{Key: items[i], Value: items[i+1]})
	}
	return nil
}

// global pushes an imported name if it is allowed.
func (m *machine) global(op opcode) error {
	var g Global
	if op == opGlobal {
		var err error
		if g.Module, err = m.takeLine(); err != nil {
			return err
		}
		if g.Name, err = m.takeLine(); err != nil {
			return err
		}
	} else {
		names, err := m.popN(2)
		if err != nil {
			return err
		}
		var moduleOK, nameOK bool
		g.Module, moduleOK = names[0].(string)
		g.Name, nameOK = names[1].(string)
		if !moduleOK || !nameOK {
			return errors.New("imports a name that is not a string")
		}
	}
	if !m.Allow(g) {
		return &ForbiddenError{Global: g}
	}
	return m.push(g, 2*header)
}

// ForbiddenError is about a pickle that imports a name which is not allowed.
type ForbiddenError struct{ Global Global }

func (e *ForbiddenError) Error() string {
	return fmt.Sprintf("imports %q, which is not allowed", clip(e.Global.String()))
}

// maxNameShown bounds how much of a hostile name an error repeats, in bytes.
const maxNameShown = 120

func clip(s string) string {
	if len(s) <= maxNameShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxNameShown], "") + "…"
}

// errSelf is about a value that contains itself.
var errSelf = errors.New("a value contains itself")

// call pushes a record of a call that Python would make.
func (m *machine) call(op opcode) error {
	if op == opNewObjEx {
		keywords, err := m.pop()
		if err != nil {
			return err
		}
		if d, ok := keywords.(*Dict); !ok || len(d.Pairs) != 0 {
			return errors.New("calls with keyword arguments")
		}
	}
	operands, err := m.popN(2)
	if err != nil {
		return err
	}
	class, ok := operands[0].(Global)
	if !ok {
		return fmt.Errorf("calls a %T", operands[0])
	}
	args, ok := operands[1].(Tuple)
	if !ok {
		return fmt.Errorf("calls %s with a %T for arguments", class, operands[1])
	}
	r := &Record{Class: class, Args: args, memory: m.memory, kept: len(m.memo)}
	if err := m.push(r, recordSize); err != nil || op != opReduce {
		return err
	}
	return m.complete(r)
}

// build gives a record its state.
func (m *machine) build() error {
	state, err := m.pop()
	if err != nil {
		return err
	}
	target, err := m.peek()
	if err != nil {
		return err
	}
	record, ok := target.(*Record)
	if !ok {
		return fmt.Errorf("restores the state of a %T", target)
	}
	if record.State != nil {
		return fmt.Errorf("restores the state of a %s twice", record.Class)
	}
	if record.used { // while its state was made: the state contains it
		return errSelf
	}
	record.State = state
	return m.complete(record)
}

// complete lets the top of the stack, a record, be converted. What it was made
// of is garbage then, unless the memo kept some of it.
func (m *machine) complete(r *Record) error {
	if m.Convert == nil {
		return nil
	}
	v, size, err := m.Convert(r)
	if err != nil || v == any(r) {
		return err
	}
	m.stack[len(m.stack)-1] = v
	for _, index := range r.memo {
		m.memo[index] = v
	}
	if len(m.memo) == r.kept+len(r.memo) {
		m.memory = r.memory
	}
	return m.charge(slot + size)
}

// arrange handles the opcodes that only move things.
func (m *machine) arrange(op opcode) error {
	switch op {
	case opMark:
		return m.mark()
	case opPop:
		_, err := m.pop()
		return err
	case opPopMark:
		_, err := m.popMark()
		return err
	}
	// A frame only announces how many bytes follow; they are all here.
	n, err := m.takeUint(operandBytes(op))
	if err != nil {
		return err
	}
	if n > uint64(len(m.data)-m.at) {
		return fmt.Errorf("truncated: a frame of %d bytes, %d left", n, len(m.data)-m.at)
	}
	return nil
}

// remember handles the memo.
func (m *machine) remember(op opcode) error {
	if op == opMemoize {
		return m.store(m.stored)
	}
	index, err := m.takeUint(operandBytes(op))
	if err != nil {
		return err
	}
	if op == opBinPut || op == opLongBinPut {
		return m.store(index)
	}
	return m.recall(index)
}
