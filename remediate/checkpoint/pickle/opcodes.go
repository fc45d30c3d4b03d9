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

// step executes one opcode.
func (m *machine) step(op opcode) error {
	switch op {
	case opNone:
		return m.push(nil)
	case opNewTrue:
		return m.push(true)
	case opNewFalse:
		return m.push(false)
	case opBinInt, opBinInt1, opBinInt2, opLong1, opLong4, opBinFloat:
		return m.number(op)
	case opShortBinUnicode, opBinUnicode, opBinUnicode8:
		return m.text(op)
	case opShortBinBytes, opBinBytes, opBinBytes8, opByteArray8:
		return m.bytes(op)
	case opEmptyList:
		return m.push(&List{})
	case opEmptyDict:
		return m.push(&Dict{})
	case opEmptySet:
		return m.push(&Set{})
	case opEmptyTuple:
		return m.push(Tuple{})
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
	n, err := m.takeUint(operandBytes(op))
	if err != nil {
		return err
	}
	switch op {
	case opBinInt: // the only one of the short forms that has a sign
		return m.push(int64(int32(n)))
	case opLong1, opLong4:
		return m.long(n)
	case opBinFloat: // the only big-endian operand
		return m.push(math.Float64frombits(bits.ReverseBytes64(n)))
	}
	return m.push(int64(n))
}

// long pushes an integer of length bytes, little-endian, two's complement.
func (m *machine) long(length uint64) error {
	if length > 8 {
		return fmt.Errorf("an integer of %d bytes does not fit 64 bits", length)
	}
	n, err := m.takeUint(int(length))
	if err != nil {
		return err
	}
	if length == 0 {
		return m.push(int64(0))
	}
	unused := 64 - 8*length
	return m.push(int64(n<<unused) >> unused)
}

func (m *machine) text(op opcode) error {
	b, err := m.takeCounted(operandBytes(op))
	if err != nil {
		return err
	}
	if !utf8.Valid(b) {
		return errors.New("a string that is not UTF-8")
	}
	return m.push(string(b))
}

func (m *machine) bytes(op opcode) error {
	b, err := m.takeCounted(operandBytes(op))
	if err != nil {
		return err
	}
	return m.push(append(Bytes(nil), b...))
}

// closed makes a value of items that are complete before it: a tuple or a
// frozenset.
func (m *machine) closed(op opcode) error {
	if op == opTuple || op == opFrozenSet {
		items, err := m.popMark()
		if err != nil {
			return err
		}
		if op == opFrozenSet {
			return m.push(&Set{Items: items})
		}
		return m.push(Tuple(items))
	}
	items := make(Tuple, 1+op-opTuple1)
	for i := range items {
		item, err := m.pop()
		if err != nil {
			return err
		}
		items[len(items)-1-i] = item
	}
	return m.push(items)
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
	if !m.allow(g) {
		return &ForbiddenError{Global: g}
	}
	return m.push(g)
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

// call pushes a record of a call that Python would make.
func (m *machine) call(op opcode) error {
	var keywords any
	if op == opNewObjEx {
		var err error
		if keywords, err = m.pop(); err != nil {
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
	return m.push(&Record{Class: class, Args: args})
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
	record.State = state
	return nil
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
		return m.memoize(uint64(len(m.memo)))
	}
	index, err := m.takeUint(operandBytes(op))
	if err != nil {
		return err
	}
	if op == opBinPut || op == opLongBinPut {
		return m.memoize(index)
	}
	return m.recall(index)
}
