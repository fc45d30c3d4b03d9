package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/internal/strictyaml"
)

const exampleConfig = "../deploy/config/agent.yaml"

func TestExampleConfigIsValid(t *testing.T) {
	config := DefaultConfig()
	if err := strictyaml.Load(exampleConfig, &config); err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.Cluster, want.Report.URL, want.Report.TLS = config.Cluster, config.Report.URL, config.Report.TLS
	if diff := cmp.Diff(want, config); diff != "" {
		t.Errorf("the example changes more than the names of things (-default +example):\n%s", diff)
	}
}

// What the example shows in comments is accepted, and is the default where it
// says so.
func TestExampleConfigIsValidUncommented(t *testing.T) {
	content, err := os.ReadFile(exampleConfig)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(content)) {
		trimmed := strings.TrimLeft(line, " ")
		text, commented := strings.CutPrefix(trimmed, "# ")
		if key, _, isKey := strings.Cut(text, ":"); commented && isKey && !strings.Contains(strings.TrimSpace(key), " ") {
			line = strings.Replace(line, "# ", "", 1)
		}
		lines = append(lines, line)
	}
	config := DefaultConfig()
	if err := strictyaml.Decode([]byte(strings.Join(lines, "")), &config); err != nil {
		t.Fatal(err)
	}
	if config.RemoteWrite.SigV4 == nil || config.RemoteWrite.SigV4.Region == "" {
		t.Error("the example's sigv4 block was not read: this test no longer uncomments what it should")
	}
	defaults := DefaultConfig()
	if config.Metrics != defaults.Metrics || config.Sources != defaults.Sources || config.RemoteWrite.Spool != defaults.RemoteWrite.Spool ||
		config.Report.Heartbeat != defaults.Report.Heartbeat || config.Report.Timeout != defaults.Report.Timeout {
		t.Errorf("the example shows values that are not the defaults: %+v", config)
	}
}

func TestConfigErrorsNameTheField(t *testing.T) {
	for name, want := range map[string]string{
		"cluster: c1\n": "",
		"cluster: c1\nnode: ip-10-1-0-1\nreport: {url: 'https://r:9103', heartbeat: 1s}\n": "",
		"":                                                     "cluster:",
		"cluster: 'no name'\n":                                 "cluster:",
		"cluster: c1\nnode: a/b\n":                             "node:",
		"cluster: c1\nreport: {url: 'r:9103'}\n":               "report.url:",
		"cluster: c1\nreport: {heartbeat: 0s}\n":               "report.heartbeat:",
		"cluster: c1\nreport: {timeout: -1s}\n":                "report.timeout:",
		"cluster: c1\nreport: {tls: {key_file: x}}\n":          "report.tls:",
		"cluster: c1\nreport: {tls: {insecure: true}}\n":       "insecure",
		"cluster: c1\nmetrics: {interval: 0s}\n":               "metrics.interval:",
		"cluster: c1\ntiming: {confirm_hold: 0s}\n":            "timing.confirm_hold:",
		"cluster: c1\nsources: {stale_after: 5s}\n":            "sources.stale_after:",
		"cluster: c1\nsources: {kernel: {interval: 0s}}\n":     "sources.kernel.interval:",
		"cluster: c1\nsources: {device: {deadline: 0s}}\n":     "sources.device.deadline:",
		"cluster: c1\nremote_write: {spool: {max_bytes: 1}}\n": "remote_write.spool.max_bytes:",
		"cluster: c1\nremote_write: {sigv4: {regoin: x}}\n":    "regoin",
		"cluster: c1\nunheard_of: 1\n":                         "unheard_of",
	} {
		config := DefaultConfig()
		err := strictyaml.Decode([]byte(name), &config)
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Decode(%q) = %v, want an error with %q", name, err, want)
		}
	}
}

func TestNodeIsTheHostsNameByDefault(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	config := Config{}
	if got, err := config.node(); err != nil || got != host {
		t.Errorf("node = %q, %v, want %q", got, err, host)
	}
	config.Node = "n1"
	if got, _ := config.node(); got != "n1" {
		t.Errorf("node = %q, want n1", got)
	}
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	file := func(content string) string {
		path := filepath.Join(dir, time.Now().Format("150405.000000000"))
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for content, want := range map[string]string{"i-0abc\n": "i-0abc", "": "", "Not Specified\n": "", "\xff\xfe": "", strings.Repeat("x", 1000): ""} {
		if got, err := readInstanceID(file(content)); got != want || err != nil {
			t.Errorf("readInstanceID(%.20q) = %q, %v, want %q", content, got, err, want)
		}
	}
	if got, err := readInstanceID(filepath.Join(dir, "none")); got != "" || err != nil {
		t.Errorf("readInstanceID of no file = %q, %v, want none and no error", got, err)
	}
	if _, err := readInstanceID(dir); err == nil {
		t.Error("readInstanceID of what cannot be read = nil error")
	}
	if got, err := readBootID(file("040eef97-58fe\n")); got != "040eef97-58fe" || err != nil {
		t.Errorf("readBootID = %q, %v", got, err)
	}
	for _, path := range []string{file(""), file("two words"), filepath.Join(dir, "none")} {
		if _, err := readBootID(path); err == nil {
			t.Errorf("readBootID(%s) = nil error", path)
		}
	}
}

func FuzzConfig(f *testing.F) {
	example, err := os.ReadFile(exampleConfig)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte("cluster: c1\nremote_write: {sigv4: {region: x}}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		config := DefaultConfig()
		if strictyaml.Decode(content, &config) == nil && (config.Cluster == "" || config.Metrics.Interval <= 0) {
			t.Errorf("accepted %q as %+v", content, config)
		}
	})
}
