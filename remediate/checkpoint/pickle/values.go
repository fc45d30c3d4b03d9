// Package pickle reads Python pickles of protocols 2 to 5 as inert values.
//
// A pickle is a program for a stack machine whose instructions may import any
// name and call it. This reader runs that machine without ever importing or
// calling anything: an instruction that would call becomes a [Record] of what
// was to be called and with what. Names must be on the caller's allow-list, all
// others are refused by name, so that a file which wants more than plain data
// is seen for what it is. The package refuses pickles that are truncated,
// cyclic, nested too deep or larger than its [Limits], the text opcodes of
// protocols 0 and 1, persistent ids, and out-of-band buffers.
package pickle

// The Go types of decoded values:
//
//	None             nil
//	bool             bool
//	int              int64; a wider integer is refused
//	float            float64
//	str              string
//	bytes, bytearray Bytes
//	list             *List
//	tuple            Tuple
//	dict             *Dict
//	set, frozenset   *Set
//	an imported name Global
//	any other object *Record

// Bytes is a bytes or bytearray object.
type Bytes []byte

// Tuple is a tuple.
type Tuple []any

// List is a list.
type List struct{ Items []any }

// Pair is one entry of a dict.
type Pair struct{ Key, Value any }

// Dict is a dict in the order in which it was filled. Keys are not compared: a
// key that was set twice is there twice, the later one last.
type Dict struct{ Pairs []Pair }

// Set is a set or a frozenset in the order in which it was filled.
type Set struct{ Items []any }

// Global is an imported name.
type Global struct{ Module, Name string }

// String is the dotted name.
func (g Global) String() string { return g.Module + "." + g.Name }

// Record is an object that Python would have made by calling Class.
type Record struct {
	Class Global
	// Args are the arguments of the call.
	Args Tuple
	// State is what Python would have restored the object's attributes from, nil
	// for none.
	State any
	// Items and Pairs are what Python would have added to the object if it is a
	// kind of list, set or dict.
	Items []any
	Pairs []Pair

	used   bool     // recalled from the memo
	memo   []uint64 // its entries in the memo
	memory int      // the machine's estimate when it was made
	kept   int      // entries that the memo kept by then
}

// Attr gives an attribute from a State that is a dict of attributes, as a plain
// class has it.
func (r *Record) Attr(name string) (any, bool) {
	state, ok := r.State.(*Dict)
	if !ok {
		return nil, false
	}
	for i := len(state.Pairs) - 1; i >= 0; i-- {
		if key, ok := state.Pairs[i].Key.(string); ok && key == name {
			return state.Pairs[i].Value, true
		}
	}
	return nil, false
}
