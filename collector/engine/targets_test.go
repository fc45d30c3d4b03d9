package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTargets(t *testing.T) {
	const labels = `"labels":{"model":"m","replica":"r0"}`
	one := Target{Address: "10.0.0.1:8000", URL: "http://10.0.0.1:8000/metrics", Model: "m", Replica: "r0"}
	tests := []struct {
		name, content string
		want          []Target
		err           string
	}{
		{"JSON", `[{"targets":["10.0.0.1:8000"],` + labels + `}]`, []Target{one}, ""},
		{"YAML", "- targets: ['10.0.0.1:8000']\n  labels: {model: m, replica: r0}\n", []Target{one}, ""},
		{
			"every label",
			"- targets: ['[::1]:8000']\n  labels: {model: m, replica: r0, job: vllm, __scheme__: https, __metrics_path__: /v/metrics, zone: a}\n",
			[]Target{{"[::1]:8000", "https://[::1]:8000/v/metrics", "m", "r0", "vllm"}},
			"",
		},
		{"nothing", "", nil, ""},
		{"an empty list", "[]", nil, ""},
		{"no model", `[{"targets":["a:1"],"labels":{"replica":"r0"}}]`, nil, "[0].labels.model: must be set"},
		{"no replica", `[{"targets":["a:1"],"labels":{"model":"m"}}]`, nil, "[0].labels.replica: must be set"},
		{"no port", `[{"targets":["a"],` + labels + `}]`, nil, `[0].targets[0]: "a" is not host:port`},
		{"a URL", `[{"targets":["http://a:1"],` + labels + `}]`, nil, "is not host:port"},
		{"a path in the address", `[{"targets":["a:1/x"],` + labels + `}]`, nil, "is not host:port"},
		{"credentials in the address", `[{"targets":["u:p@a:1"],` + labels + `}]`, nil, "is not host:port"},
		{"twice", `[{"targets":["a:1"],` + labels + `},{"targets":["b:1","a:1"],` + labels + `}]`, nil, "[1].targets[1]: a:1 is [0].targets[0] already"},
		{"scheme", `[{"targets":["a:1"],"labels":{"model":"m","replica":"r","__scheme__":"ftp"}}]`, nil, "[0].labels.__scheme__: must be http or https"},
		{"path", `[{"targets":["a:1"],"labels":{"model":"m","replica":"r","__metrics_path__":"x"}}]`, nil, "[0].labels.__metrics_path__: must begin with /"},
		{"long label", `[{"targets":["a:1"],"labels":{"model":"` + strings.Repeat("m", 254) + `","replica":"r"}}]`, nil, "[0].labels.model: must be at most 253 bytes"},
		{"unknown field", `[{"target":["a:1"],` + labels + `}]`, nil, "field target not found"},
		{"no list", `{"targets":[]}`, nil, "cannot unmarshal"},
		{"two documents", "[]\n---\n[]\n", nil, "more than one document"},
		{"truncated", `[{"targets":["a:1"`, nil, "did not find"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseTargets([]byte(test.content))
			if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Fatalf("ParseTargets() = %v, want an error with %q", err, test.err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("ParseTargets() differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTargetFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "targets.json")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := TargetFile{Path: path}
	read := func(what string, wantTargets int, wantChanged, wantErr bool) {
		t.Helper()
		targets, changed, err := file.Read()
		if len(targets) != wantTargets || changed != wantChanged || (err != nil) != wantErr {
			t.Errorf("%s: Read() = %v, %v, %v, want %d targets, changed %v, error %v", what, targets, changed, err, wantTargets, wantChanged, wantErr)
		}
	}
	const good = `[{"targets":["a:1","b:1"],"labels":{"model":"m","replica":"r0"}}]`
	read("not there yet", 0, false, true)
	write(good)
	read("first", 2, true, false)
	read("unchanged", 0, false, false)
	write(good[:20])
	read("half written", 0, false, true)
	read("still half written", 0, false, true)
	write(good)
	read("as before", 0, false, false)
	write("[]")
	read("emptied on purpose", 0, true, false)
}

// Whatever is in the file, a target is one that can be asked.
func FuzzParseTargets(f *testing.F) {
	f.Add([]byte(`[{"targets":["10.0.0.1:8000"],"labels":{"model":"m","replica":"r0"}}]`))
	f.Add([]byte("- targets: ['[::1]:8000']\n  labels: {model: m, replica: r0, __scheme__: https}\n"))
	f.Add([]byte("&a [*a]"))
	f.Fuzz(func(t *testing.T, content []byte) {
		targets, err := ParseTargets(content)
		if err != nil && targets != nil {
			t.Errorf("ParseTargets() gives %v and %v", targets, err)
		}
		for _, target := range targets {
			if target.Model == "" || target.Replica == "" || !strings.HasPrefix(target.URL, "http") || !strings.Contains(target.URL, "://"+target.Address+"/") {
				t.Errorf("target %+v", target)
			}
		}
	})
}
