package pickle

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var small = Limits{Bytes: 1 << 10, Memory: 1 << 10, StringBytes: 8, Depth: 3}

func allowPoint(g Global) bool { return g == Global{Module: "geometry", Name: "Point"} }

func decode(content string) (any, error) {
	r := Reader{Limits: small, Allow: allowPoint}
	return r.Decode([]byte(content))
}

const point = "\x80\x02cgeometry\nPoint\n"

func TestDecode(t *testing.T) {
	class := Global{Module: "geometry", Name: "Point"}
	tests := []struct {
		name, pickle string
		want         any
	}{
		{"None", "\x80\x02N.", nil},
		{"True", "\x80\x02\x88.", true},
		{"BININT is signed", "\x80\x02J\xff\xff\xff\xff.", int64(-1)},
		{"BININT2 is not", "\x80\x02M\xff\xff.", int64(65535)},
		{"LONG1 of no bytes", "\x80\x02\x8a\x00.", int64(0)},
		{"LONG1 negative", "\x80\x02\x8a\x02\x00\x80.", int64(-32768)},
		{"LONG1 of 8 bytes", "\x80\x02\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f.", int64(1<<63 - 1)},
		{"LONG4", "\x80\x02\x8b\x01\x00\x00\x00\x05.", int64(5)},
		{"BINFLOAT", "\x80\x02G\x3f\xf8\x00\x00\x00\x00\x00\x00.", 1.5},
		{"SHORT_BINUNICODE", "\x80\x04\x8c\x02\xc3\xa9.", "é"},
		{"SHORT_BINBYTES", "\x80\x03C\x02\xff\xfe.", Bytes("\xff\xfe")},
		{"BYTEARRAY8", "\x80\x05\x96\x01\x00\x00\x00\x00\x00\x00\x00a.", Bytes("a")},
		{"FRAME", "\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00N.", nil},
		{"tuple in order", "\x80\x02K\x01K\x02K\x03\x87.", Tuple{int64(1), int64(2), int64(3)}},
		{"list by APPEND and APPENDS", "\x80\x02]K\x01a(K\x02K\x03e.", &List{Items: []any{int64(1), int64(2), int64(3)}}},
		{"dict by SETITEM and SETITEMS", "\x80\x02}K\x01Ns(K\x02Nu.", &Dict{Pairs: []Pair{{int64(1), nil}, {int64(2), nil}}}},
		{"set", "\x80\x04\x8f(K\x01\x90.", &Set{Items: []any{int64(1)}}},
		{"frozenset", "\x80\x04(K\x01\x91.", &Set{Items: []any{int64(1)}}},
		{"memo", "\x80\x02K\x07q\x00h\x00\x86.", Tuple{int64(7), int64(7)}},
		{"MEMOIZE", "\x80\x04K\x07\x94h\x00\x86.", Tuple{int64(7), int64(7)}},
		{"POP", "\x80\x02NK\x010.", nil},
		{"POP_MARK", "\x80\x02N(K\x01K\x021.", nil},
		{"GLOBAL", point + ".", class},
		{"STACK_GLOBAL", "\x80\x04\x8c\x08geometry\x8c\x05Point\x93.", class},
		{"REDUCE", point + "K\x01\x85R.", &Record{Class: class, Args: Tuple{int64(1)}}},
		{"NEWOBJ and BUILD", point + ")\x81}X\x01\x00\x00\x00xK\x01sb.",
			&Record{Class: class, Args: Tuple{}, State: &Dict{Pairs: []Pair{{"x", int64(1)}}}}},
		{"NEWOBJ_EX", "\x80\x04\x8c\x08geometry\x8c\x05Point\x93)}\x92.", &Record{Class: class, Args: Tuple{}}},
		{"a kind of dict", point + ")RK\x01Ns.", &Record{Class: class, Args: Tuple{}, Pairs: []Pair{{int64(1), nil}}}},
		{"a kind of list", point + ")RK\x01a.", &Record{Class: class, Args: Tuple{}, Items: []any{int64(1)}}},
		{"nested as deep as allowed", "\x80\x02N\x85\x85\x85.", Tuple{Tuple{Tuple{nil}}}},
		{"a string as long as allowed", "\x80\x04\x8c\x0812345678.", "12345678"},
	}
	for _, test := range tests {
		got, err := decode(test.pickle)
		if diff := cmp.Diff(test.want, got, cmpopts.IgnoreUnexported(Record{})); diff != "" || err != nil {
			t.Errorf("%s: Decode(%q): %v (-want +got):\n%s", test.name, test.pickle, err, diff)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	tests := []struct{ name, pickle, want string }{
		{"nothing", "", "truncated"},
		{"no protocol", "N.", "not a pickle of protocol 2 to 5"},
		{"protocol 1", "\x80\x01N.", "not a pickle of protocol 2 to 5"},
		{"protocol 6", "\x80\x06N.", "not a pickle of protocol 2 to 5"},
		{"no STOP", "\x80\x02N", "truncated"},
		{"no value", "\x80\x02.", "ends with 0 values"},
		{"two values", "\x80\x02NN.", "ends with 2 values"},
		{"open MARK", "\x80\x02N(.", "ends inside a MARK"},
		{"more after STOP", "\x80\x02N.N", "1 bytes after the end"},
		{"text opcode", "\x80\x02I1\n.", "opcode 0x49 is not one"},
		{"persistent id", "\x80\x02NQ.", "opcode 0x51 is not one"},
		{"extension", "\x80\x02\x82\x01.", "opcode 0x82 is not one"},
		{"out-of-band buffer", "\x80\x05\x97.", "opcode 0x97 is not one"},
		{"name that is not allowed", "\x80\x02cos\nsystem\n.", `imports "os.system"`},
		{"long name that is not allowed", "\x80\x02cos\n" + strings.Repeat("x", 7) + "\n.", `imports "os.xxxxxxx"`},
		{"name without end", "\x80\x02cgeometry", "a name without end"},
		{"name of a number", "\x80\x04\x8c\x08geometryK\x01\x93.", "imports a name that is not a string"},
		{"call of a string", "\x80\x04\x8c\x01x)R.", "calls a string"},
		{"call of a call", point + ")R)R.", "calls a *pickle.Record"},
		{"call with a list", point + "]R.", "with a *pickle.List for arguments"},
		{"keyword arguments", "\x80\x04\x8c\x08geometry\x8c\x05Point\x93)}\x8c\x01xNs\x92.", "keyword arguments"},
		{"state of a list", "\x80\x02]Nb.", "restores the state of a *pickle.List"},
		{"state twice", point + ")\x81}b}b.", "twice"},
		{"append to a dict", "\x80\x02}Na.", "adds items to a *pickle.Dict"},
		{"add to a list", "\x80\x04](N\x90.", "adds items to a *pickle.List"},
		{"set an entry of a list", "\x80\x02]NNs.", "sets entries of a *pickle.List"},
		{"key without a value", "\x80\x02}(Nu.", "a dict key without a value"},
		{"pop of nothing", "\x80\x020.", "empty stack"},
		{"pop below a MARK", "\x80\x02N(0.", "empty stack"},
		{"append below a MARK", "\x80\x02](Na.", "empty stack"},
		{"no MARK", "\x80\x02Nt.", "no MARK"},
		{"memo of nothing", "\x80\x02q\x00.", "empty stack"},
		{"memo with a gap", "\x80\x02Nq\x01.", "memo entry 1 stored after 0"},
		{"memo with a huge index", "\x80\x02Nr\xff\xff\xff\xff.", "memo entry 4294967295 stored after 0"},
		{"memo never stored", "\x80\x02h\x00.", "memo entry 0 of 0"},
		{"not UTF-8", "\x80\x04\x8c\x01\xff.", "not UTF-8"},
		{"integer of 9 bytes", "\x80\x02\x8a\x09123456789.", "does not fit 64 bits"},
		{"integer of 4 GiB", "\x80\x02\x8b\xff\xff\xff\xff.", "does not fit 64 bits"},
		{"frame beyond the end", "\x80\x04\x95\x03\x00\x00\x00\x00\x00\x00\x00N.", "a frame of 3 bytes, 2 left"},
		{"string too long", "\x80\x04\x8c\x09123456789.", "a string of 9 bytes, at most 8"},
		{"bytes too long", "\x80\x04\x8e\x00\x00\x00\x00\x00\x00\x00\xff.", "at most 8"},
		{"nested too deep", "\x80\x02N\x85\x85\x85\x85.", "nested deeper than 3"},
		{"nested too deep through a shared value", "\x80\x02N\x85\x85q\x000h\x00h\x00\x85\x85\x86.", "nested deeper than 3"},
		{"list in itself", "\x80\x02]q\x00h\x00a.", "contains itself"},
		{"record in itself", point + ")\x81q\x00h\x00b.", "contains itself"},
		{"list in itself by a tuple", "\x80\x02]q\x00h\x00\x85a.", "contains itself"},
	}
	for _, test := range tests {
		_, err := decode(test.pickle)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Decode(%q) error = %v, want one with %q", test.name, test.pickle, err, test.want)
		}
	}
}

// TestDecodeLimits has each limit exceeded; TestDecode and TestDecodeAtMemory
// have it reached.
func TestDecodeLimits(t *testing.T) {
	tests := []struct{ name, pickle, want string }{
		{"values", "\x80\x02(" + strings.Repeat("N", 1024/slot) + "t.", "more than 1024 bytes of memory"},
		{"marks", "\x80\x02" + strings.Repeat("(", 1024/slot+1), "more than 1024 bytes of memory"},
		{"containers", "\x80\x02" + strings.Repeat("]", 1024/(slot+container)+1), "more than 1024 bytes of memory"},
		{"memo", "\x80\x02N" + strings.Repeat("\x94", 9) + "h\x00h\x01h\x02h\x03h\x04h\x05h\x06h\x07h\x08.", "more than 1024 bytes of memory"},
		{"input", "\x80\x04" + strings.Repeat("N0", 512), "1026 bytes, at most 1024"},
	}
	for _, test := range tests {
		_, err := decode(test.pickle)
		if !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Decode(%q) error = %v, want %v with %q", test.name, test.pickle, err, ErrLimit, test.want)
		}
	}
}

func TestDecodeAtMemory(t *testing.T) {
	content := "\x80\x02(" + strings.Repeat("N", (1024-header-2*slot)/slot) + "t."
	if _, err := decode(content); err != nil {
		t.Errorf("Decode at the limit of memory: %v", err)
	}
	if _, err := decode(strings.Replace(content, "(", "(N", 1)); !errors.Is(err, ErrLimit) {
		t.Errorf("Decode one value above the limit of memory: error = %v, want %v", err, ErrLimit)
	}
}

// TestConvert has points become plain strings.
func TestConvert(t *testing.T) {
	r := Reader{Limits: small, Allow: allowPoint, Convert: func(r *Record) (any, int, error) {
		if x, ok := r.Attr("x"); ok && x == nil {
			return nil, 0, errors.New("no x")
		}
		if r.State == nil {
			return r, 0, nil
		}
		return "point", 0, nil
	}}
	restored := point[2:] + ")\x81"
	state := "}X\x01\x00\x00\x00xK\x01s"
	tests := []struct {
		name, pickle string
		want         any
	}{
		{"called", point + ")R.", &Record{Class: Global{Module: "geometry", Name: "Point"}, Args: Tuple{}}},
		{"restored", "\x80\x02" + restored + state + "b.", "point"},
		{"restored and recalled", "\x80\x02" + restored + "q\x00" + state + "bh\x00\x86.", Tuple{"point", "point"}},
		{"more than fit unconverted", "\x80\x02(" + strings.Repeat(restored+state+"b", 5) + "t.", Tuple(slices.Repeat([]any{"point"}, 5))},
	}
	for _, test := range tests {
		got, err := r.Decode([]byte(test.pickle))
		if diff := cmp.Diff(test.want, got, cmpopts.IgnoreUnexported(Record{})); diff != "" || err != nil {
			t.Errorf("%s: Decode(%q): %v (-want +got):\n%s", test.name, test.pickle, err, diff)
		}
	}
	if _, err := r.Decode([]byte("\x80\x02" + restored + strings.Replace(state, "K\x01", "N", 1) + "b.")); err == nil || !strings.Contains(err.Error(), "no x") {
		t.Errorf("Decode with a failed conversion: error = %v, want it", err)
	}
	if _, err := r.Decode([]byte("\x80\x02" + restored + "q\x00h\x00b.")); !errors.Is(err, errSelf) {
		t.Errorf("Decode of an object with itself as state: error = %v, want %v", err, errSelf)
	}
}

// TestConvertGivesBack has two objects that fit one after the other if what the
// first was made of is given up, which it is not if the memo keeps some of it.
func TestConvertGivesBack(t *testing.T) {
	r := Reader{Limits: small, Allow: allowPoint, Convert: func(*Record) (any, int, error) { return "point", 0, nil }}
	object := func(list string) string { return point[2:] + ")\x81}X\x01\x00\x00\x00x" + list + "sb0" }
	list := "](" + strings.Repeat("N", 10) + "e"
	if _, err := r.Decode([]byte("\x80\x02" + object(list) + object(list) + "N.")); err != nil {
		t.Errorf("Decode of two objects: %v", err)
	}
	_, err := r.Decode([]byte("\x80\x02" + object(list+"q\x00h\x000") + object(list+"q\x01h\x010") + "N."))
	if !errors.Is(err, ErrLimit) {
		t.Errorf("Decode of two objects with parts that the memo keeps: error = %v, want %v", err, ErrLimit)
	}
}

func TestForbiddenErrorIsClipped(t *testing.T) {
	err := &ForbiddenError{Global: Global{Module: strings.Repeat("é", maxNameShown), Name: "x"}}
	if text := err.Error(); len(text) > maxNameShown+60 || strings.ContainsRune(text, '�') {
		t.Errorf("error for a long name = %q, want it clipped at a character", text)
	}
}

func TestAttr(t *testing.T) {
	r := &Record{State: &Dict{Pairs: []Pair{{"x", int64(1)}, {int64(2), nil}, {"x", int64(3)}}}}
	if got, ok := r.Attr("x"); got != int64(3) || !ok {
		t.Errorf("Attr(x) = %v, %v, want the one set last, 3, true", got, ok)
	}
	if got, ok := r.Attr("y"); ok {
		t.Errorf("Attr(y) = %v, true, want none", got)
	}
	if got, ok := (&Record{State: Tuple{}}).Attr("x"); ok {
		t.Errorf("Attr(x) of a state that is a tuple = %v, true, want none", got)
	}
}

func FuzzDecode(f *testing.F) {
	paths, err := filepath.Glob("../testdata/*.metadata")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no fixtures to start from: %v", err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	r := Reader{Limits: Limits{Bytes: 1 << 16, Memory: 1 << 20, StringBytes: 1 << 10, Depth: 32}, Allow: func(g Global) bool { return g.Module != "os" }}
	f.Fuzz(func(t *testing.T, content []byte) {
		value, err := r.Decode(content)
		if err != nil {
			return
		}
		if !bytes.HasSuffix(content, []byte{byte(opStop)}) {
			t.Errorf("Decode(%q) = %v, want an error: it does not end with STOP", content, value)
		}
		if depth(value, r.Limits.Depth) > r.Limits.Depth {
			t.Errorf("Decode(%q) let through a value that is nested too deep, or in itself", content)
		}
	})
}

// depth counts how deep value is nested, up to one more than limit, by a walk
// that knows nothing of sharing.
func depth(value any, limit int) int {
	if identity(value) == nil || limit < 0 {
		return 0
	}
	deepest := 0
	_ = visit(value, func(child any) error {
		deepest = max(deepest, depth(child, limit-1))
		return nil
	})
	return deepest + 1
}
