package expert

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// valid is a post with a place for one change.
const valid = `{"schema":1,"cluster":"c","model":"deepseek-ai/DeepSeek-V3","replica":"r0","job":"42","window_seconds":10,"generation":7,"top_k":8,
 "counts":[[3,4],[5,6]],
 "placement":[[[0],[1]],[[1,0],[1]]],
 "ranks":[{"rank":0,"node":"ip-10-1-0-1","device_uuid":"GPU-0","seconds":1.25},{"rank":1,"node":"ip-10-1-0-1","device_uuid":"GPU-1","seconds":1.5}]}`

func TestDecode(t *testing.T) {
	got, err := Decode(strings.NewReader(valid))
	if err != nil {
		t.Fatal(err)
	}
	want := &Load{
		Schema: 1, Cluster: "c", Model: "deepseek-ai/DeepSeek-V3", Replica: "r0", Job: "42", WindowSeconds: 10, Generation: 7, TopK: 8,
		Counts:    Counts{{3, 4}, {5, 6}},
		Placement: Placement{{{0}, {1}}, {{1, 0}, {1}}},
		Ranks:     []Rank{{0, "ip-10-1-0-1", "GPU-0", 1.25}, {1, "ip-10-1-0-1", "GPU-1", 1.5}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Decode() differs (-want +got):\n%s", diff)
	}
}

// Each case changes one thing of the valid post. A case without error is the
// near miss of the one before it.
func TestDecodeNamesTheField(t *testing.T) {
	wide := func(n int) string { return "[[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]]" }
	tests := []struct{ name, old, new, want string }{
		{"schema", `"schema":1`, `"schema":2`, "schema: must be 1, got 2"},
		{"no schema", `"schema":1,`, ``, "schema: must be 1, got 0"},
		{"unknown field", `"top_k"`, `"topk"`, `unknown field "topk"`},
		{"cluster", `"cluster":"c"`, `"cluster":"a b"`, `cluster: "a b" is not a name`},
		{"no model", `"deepseek-ai/DeepSeek-V3"`, `""`, "model: must be set"},
		{"control character", `"r0"`, `"r\n0"`, "replica: "},
		{"long replica", `"r0"`, `"` + strings.Repeat("r", 254) + `"`, "replica: must be at most 253 bytes long, got 254"},
		{"longest replica", `"r0"`, `"` + strings.Repeat("r", 253) + `"`, ""},
		{"no job", `"job":"42",`, ``, ""},
		{"window", `"window_seconds":10`, `"window_seconds":0`, "window_seconds: must be above 0"},
		{"short window", `"window_seconds":10`, `"window_seconds":0.001`, ""},
		{"negative generation", `"generation":7`, `"generation":-1`, "generation"},
		{"first generation", `"generation":7`, `"generation":0`, ""},
		{"top_k", `"top_k":8`, `"top_k":0`, "top_k: must be 1 to 1024, got 0"},
		{"smallest top_k", `"top_k":8`, `"top_k":1`, ""},
		{"negative count", `[5,6]`, `[5,-6]`, `counts[1][1]: must be a non-negative integer, got "-6]]"`},
		{"zero count", `[5,6]`, `[5,0]`, ""},
		{"count of one half", `[5,6]`, `[5,0.5]`, `counts[1][1]: must be a non-negative integer, got "0.5]]"`},
		{"count through floating point", `[5,6]`, `[5,6.0]`, `counts[1][1]: must be a non-negative integer`},
		{"count in words", `[5,6]`, `[5,"6"]`, `counts[1][1]: must be a non-negative integer`},
		{"no count", `[5,6]`, `[5,null]`, `counts[1][1]: must be a non-negative integer`},
		{"nested count", `[5,6]`, `[5,[6]]`, `counts[1][1]: must be a non-negative integer`},
		{"count too large", `[5,6]`, `[5,1099511627777]`, `counts[1][1]: must be at most 1099511627776`},
		{"largest count", `[5,6]`, `[5,1099511627776]`, ""},
		{"count beyond 64 bits", `[5,6]`, `[5,99999999999999999999999999]`, `counts[1][1]: must be at most`},
		{"ragged counts", `[5,6]`, `[5,6,7]`, "counts[1]: holds 3 experts and counts[0] holds 2"},
		{"counts no matrix", `[[3,4],[5,6]]`, `[3,4]`, "counts[0]: must be an array"},
		{"counts null", `[[3,4],[5,6]]`, `null`, "counts: must be an array"},
		{"counts an object", `[[3,4],[5,6]]`, `{"0":[3,4]}`, "counts: must be an array"},
		{"no layer", `[[3,4],[5,6]]`, `[]`, "counts: must hold 1 to 512 layers, got 0"},
		{"no expert", `[[3,4],[5,6]]`, `[[],[]]`, "counts[0]: must hold 1 to 4096 experts, got 0"},
		{"too many experts", `[[3,4],[5,6]]`, wide(4097), "counts[0]: more than 4096 entries"},
		{"too many layers", `[[3,4],[5,6]]`, "[" + strings.TrimSuffix(strings.Repeat("[1],", 513), ",") + "]", "counts: more than 512 entries"},
		{"placement lacks a layer", `,[[1,0],[1]]]`, `]`, "placement: holds 1 layers and counts holds 2"},
		{"placement lacks an expert", `[[1,0],[1]]`, `[[1,0]]`, "placement[1]: holds 1 experts and counts[1] holds 2"},
		{"expert placed nowhere", `[[1,0],[1]]`, `[[1,0],[]]`, "placement[1][1]: must name 1 to 4096 ranks, got 0"},
		{"expert on an unknown rank", `[[1,0],[1]]`, `[[1,0],[2]]`, "placement[1][1][0]: rank 2 is not in ranks"},
		{"expert on a negative rank", `[[1,0],[1]]`, `[[1,0],[-1]]`, "placement[1][1][0]: must be a non-negative integer"},
		{"expert on a rank, not a list", `[[1,0],[1]]`, `[[1,0],1]`, "placement[1][1]: must be an array"},
		{"no ranks", `"ranks":[`, `"ranks":[],"ranks_":[`, "ranks"},
		{"rank twice", `"rank":1`, `"rank":0`, "ranks[1].rank: 0 appears twice"},
		{"negative rank", `"rank":1`, `"rank":-1`, "ranks[1].rank: must be 0 to"},
		{"node", `"ip-10-1-0-1","device_uuid":"GPU-0"`, `"","device_uuid":"GPU-0"`, `ranks[0].node: "" is not a name`},
		{"device", `"GPU-0"`, `"GPU 0"`, `ranks[0].device_uuid: "GPU 0" is not a device UUID`},
		{"no device", `"device_uuid":"GPU-0",`, ``, ""},
		{"negative seconds", `1.25`, `-1.25`, "ranks[0].seconds: must be 0 to 86400, got -1.25"},
		{"seconds not measured", `1.25`, `0`, ""},
		{"truncated", `"seconds":1.5}]}`, `"seconds":1.5}]`, "decode expert load: unexpected EOF"},
		{"more than one value", `"seconds":1.5}]}`, `"seconds":1.5}]}{}`, "more follows the JSON value"},
		{"white space around", `{"schema":1`, " \n{\"schema\":1", ""},
		{"not JSON", valid, `schema: 1`, "decode expert load: invalid character"},
		{"nothing", valid, ``, "decode expert load: EOF"},
		{"null", valid, `null`, "schema: must be 1, got 0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			body := strings.Replace(valid, test.old, test.new, 1)
			if body == valid {
				t.Fatal("the case changes nothing")
			}
			_, err := Decode(strings.NewReader(body))
			switch {
			case test.want == "" && err != nil:
				t.Errorf("Decode() = %v, want it taken", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("Decode() = %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestDecodeListsAFewErrorsOnly(t *testing.T) {
	l := post(1, Counts{make([]int64, 100)}, Placement{make([][]int32, 100)})
	body, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	body = bytes.ReplaceAll(body, []byte("null"), []byte("[]"))
	_, err = Decode(bytes.NewReader(body))
	if err == nil || !strings.HasSuffix(err.Error(), "\nand 92 more") || strings.Count(err.Error(), "\n") != maxErrors {
		t.Errorf("Decode() = %v, want %d errors and a count", err, maxErrors)
	}
}

func TestDecodeBoundsTheBody(t *testing.T) {
	padded := func(n int) io.Reader {
		return io.MultiReader(strings.NewReader(valid), io.LimitReader(spaces{}, int64(n-len(valid))))
	}
	if _, err := Decode(padded(MaxBodyBytes)); err != nil {
		t.Errorf("Decode() of %d bytes = %v, want it taken", MaxBodyBytes, err)
	}
	if _, err := Decode(padded(MaxBodyBytes + 1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Decode() of %d bytes = %v, want ErrTooLarge", MaxBodyBytes+1, err)
	}
	endless := io.MultiReader(strings.NewReader(`{"counts":[[`), ones{})
	if _, err := Decode(endless); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Decode() of an endless body = %v, want ErrTooLarge", err)
	}
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// ones is an endless number.
type ones struct{}

func (ones) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '1'
	}
	return len(p), nil
}

func TestFingerprint(t *testing.T) {
	base := Placement{{{0}, {1, 2}}, {{3}}}
	for _, other := range []Placement{{{{0}, {1}}, {{2, 3}}}, {{{0, 1}, {2}}, {{3}}}, {{{0}, {2, 1}}, {{3}}}, {{{0}, {1, 2}}}} {
		if base.Fingerprint() == other.Fingerprint() {
			t.Errorf("%v and %v have the same fingerprint", base, other)
		}
	}
	if same := (Placement{{{0}, {1, 2}}, {{3}}}); base.Fingerprint() != same.Fingerprint() {
		t.Error("equal placements differ in fingerprint")
	}
}

// Whatever is decoded can be measured and says the same when it is sent again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte(`{"schema":1,"counts":[[1e9]],"placement":[[[]]]}`))
	f.Add([]byte(`{"counts":[[[[[[`))
	f.Fuzz(func(t *testing.T, body []byte) {
		l, err := Decode(bytes.NewReader(body))
		if err != nil {
			return
		}
		b := Measure(l, 8)
		for i, layer := range b.Layers {
			if v, ok := layer.Balancedness(); ok && !(v > 0 && v <= 1) {
				t.Errorf("balancedness of layer %d = %v", i, v)
			}
		}
		again, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := Decode(bytes.NewReader(again))
		if err != nil {
			t.Fatalf("%s is refused when sent again: %v", again, err)
		}
		if diff := cmp.Diff(l, twice); diff != "" {
			t.Errorf("sent again it differs:\n%s", diff)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	body, err := json.Marshal(deepSeek())
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(bytes.NewReader(body)); err != nil {
			b.Fatal(err)
		}
	}
}
