package dcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The opcodes of pickle protocol 2 that are written and read back here, by
// their names in Python's pickletools.
const (
	opProto      = 0x80
	opStop       = '.'
	opNone       = 'N'
	opTrue       = 0x88
	opFalse      = 0x89
	opBinInt     = 'J'
	opLong1      = 0x8a
	opBinUnicode = 'X'
	opMark       = '('
	opTuple      = 't'
	opEmptyList  = ']'
	opAppends    = 'e'
	opEmptyDict  = '}'
	opSetItems   = 'u'
	opGlobal     = 'c'
	opReduce     = 'R'
	opEmptyTuple = ')'
	opNewObj     = 0x81
	opBuild      = 'b'
	opBinPersID  = 'Q'
)

// pickle encodes a Python object with protocol 2.
func pickle(object any) []byte {
	b := appendObject([]byte{opProto, 2}, object)
	return append(b, opStop)
}

func appendObject(b []byte, object any) []byte {
	switch v := object.(type) {
	case nil:
		return append(b, opNone)
	case bool:
		if v {
			return append(b, opTrue)
		}
		return append(b, opFalse)
	case int64:
		return appendInt(b, v)
	case string:
		b = binary.LittleEndian.AppendUint32(append(b, opBinUnicode), uint32(len(v)))
		return append(b, v...)
	case pyTuple:
		return append(appendAll(append(b, opMark), v), opTuple)
	case pyList:
		return append(appendAll(append(b, opEmptyList, opMark), v), opAppends)
	case pyDict:
		b = append(b, opEmptyDict, opMark)
		for _, p := range v {
			b = appendObject(appendObject(b, p.key), p.value)
		}
		return append(b, opSetItems)
	case pyName:
		return fmt.Appendf(b, "%c%s\n%s\n", opGlobal, v.module, v.name)
	case pyCall:
		return append(appendObject(appendObject(b, v.function), v.args), opReduce)
	case pyObject:
		b = append(appendObject(b, v.class), opEmptyTuple, opNewObj)
		return append(appendObject(b, v.state), opBuild)
	case pyPersistent:
		return append(appendObject(b, v.id), opBinPersID)
	}
	panic(fmt.Sprintf("dcp: cannot pickle a %T", object))
}

func appendInt(b []byte, n int64) []byte {
	if n >= math.MinInt32 && n <= math.MaxInt32 {
		return binary.LittleEndian.AppendUint32(append(b, opBinInt), uint32(n))
	}
	return binary.LittleEndian.AppendUint64(append(b, opLong1, 8), uint64(n))
}

func appendAll(b []byte, objects []any) []byte {
	for _, o := range objects {
		b = appendObject(b, o)
	}
	return b
}

// unpickle decodes what pickle wrote, and nothing else.
func unpickle(content []byte) (object any, err error) {
	u := unpickler{rest: content}
	defer func() {
		if r := recover(); r != nil {
			object, err = nil, fmt.Errorf("pickle of another writer, or damaged: %v", r)
		}
	}()
	u.take(2)
	for {
		op := u.take(1)[0]
		if op == opStop {
			return u.pop(), nil
		}
		u.step(op)
	}
}

// unpickler is a stack machine that panics on whatever pickle does not write.
type unpickler struct {
	rest  []byte
	stack []any
	marks []int
}

func (u *unpickler) step(op byte) {
	switch op {
	case opNone:
		u.push(nil)
	case opTrue, opFalse:
		u.push(op == opTrue)
	case opBinInt:
		u.push(int64(int32(binary.LittleEndian.Uint32(u.take(4)))))
	case opLong1:
		u.push(int64(binary.LittleEndian.Uint64(u.take(9)[1:])))
	case opBinUnicode:
		u.push(string(u.take(int(binary.LittleEndian.Uint32(u.take(4))))))
	case opMark:
		u.marks = append(u.marks, len(u.stack))
	case opTuple:
		u.push(pyTuple(u.popMark()))
	case opEmptyTuple:
		u.push(pyTuple{})
	case opEmptyList:
		u.push(pyList{})
	case opAppends:
		items := u.popMark()
		u.push(append(u.pop().(pyList), items...))
	case opEmptyDict:
		u.push(pyDict{})
	case opSetItems:
		items := u.popMark()
		d := u.pop().(pyDict)
		for i := 0; i < len(items); i += 2 {
			d = append(d, pyPair{items[i], items[i+1]})
		}
		u.push(d)
	case opGlobal:
		u.push(pyName{u.line(), u.line()})
	case opReduce:
		args := u.pop().(pyTuple)
		u.push(pyCall{u.pop().(pyName), args})
	case opNewObj:
		u.pop()
		u.push(pyObject{class: u.pop().(pyName)})
	case opBuild:
		state := u.pop()
		u.push(pyObject{u.pop().(pyObject).class, state})
	case opBinPersID:
		u.push(pyPersistent{u.pop()})
	default:
		panic(fmt.Sprintf("opcode %#02x", op))
	}
}

func (u *unpickler) take(n int) []byte {
	if n > len(u.rest) {
		panic(errors.New("truncated"))
	}
	b := u.rest[:n]
	u.rest = u.rest[n:]
	return b
}

func (u *unpickler) line() string {
	return string(bytes.TrimSuffix(u.take(bytes.IndexByte(u.rest, '\n')+1), []byte("\n")))
}

func (u *unpickler) push(v any) { u.stack = append(u.stack, v) }

func (u *unpickler) pop() any {
	v := u.stack[len(u.stack)-1]
	u.stack = u.stack[:len(u.stack)-1]
	return v
}

func (u *unpickler) popMark() []any {
	from := u.marks[len(u.marks)-1]
	u.marks = u.marks[:len(u.marks)-1]
	items := append([]any(nil), u.stack[from:]...)
	u.stack = u.stack[:from]
	return items
}
