package strictyaml

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// config is a configuration with a default and a rule.
type config struct {
	Name     string        `yaml:"name"`
	Interval time.Duration `yaml:"interval"`
	Inner    struct {
		Roots []string `yaml:"roots"`
	} `yaml:"inner"`
}

func (c *config) Validate() error {
	if c.Name == "" {
		return errors.New("name: must be set")
	}
	return nil
}

func TestDecode(t *testing.T) {
	for _, test := range []struct {
		name, content string
		want          string // in the error; empty for none
	}{
		{"whole", "name: a\ninterval: 15s\ninner: {roots: [/a]}\n", ""},
		{"default kept", "name: a\n", ""},
		{"comments only", "# nothing\n", "name: must be set"},
		{"nothing", "", "name: must be set"},
		{"unknown key", "name: a\nnaem: b\n", "naem"},
		{"unknown inner key", "name: a\ninner: {root: /a}\n", "root"},
		{"key twice", "name: a\nname: b\n", "already defined"},
		{"wrong type", "name: a\ninner: {roots: {}}\n", "line 2"},
		{"number without a unit as a duration", "name: a\ninterval: 15\n", "line 2"},
		{"no duration", "name: a\ninterval: soon\n", "line 2"},
		{"no YAML", "name: [a\n", "line"},
		{"two documents", "name: a\n---\nname: b\n", "more than one YAML document"},
		{"second document broken", "name: a\n---\n[\n", "more than one YAML document"},
		{"end marker only", "name: a\n...\n", ""},
		{"too large", "name: a\n" + strings.Repeat("#", maxBytes), "larger than"},
		{"aliases that explode", explosion(), "line 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := config{Interval: time.Minute}
			err := Decode([]byte(test.content), &c)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Fatalf("Decode() = %v, want %q", err, test.want)
			}
			if test.name == "default kept" && c.Interval != time.Minute {
				t.Errorf("interval = %s, want the default %s", c.Interval, time.Minute)
			}
		})
	}
}

// explosion is a document of a few hundred bytes whose expansion is of ten billion
// items; it has to be refused without being expanded.
func explosion() string {
	var b strings.Builder
	b.WriteString("x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n")
	for i, previous := 1, "x0"; i < 10; i++ {
		name := "x" + string(rune('0'+i))
		b.WriteString(name + ": &" + name + " [" + strings.TrimSuffix(strings.Repeat("*"+previous+", ", 10), ", ") + "]\n")
		previous = name
	}
	return b.String() + "inner:\n  roots: [*x9]\nname: a\n"
}

func TestLoadNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(path, []byte("naem: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, filepath.Join(dir, "missing.yaml"), dir} {
		if err := Load(path, &config{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Load(%s) = %v, want an error that names the file", path, err)
		}
	}
	if err := os.WriteFile(path, []byte("name: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Load(path, &config{}); err != nil {
		t.Errorf("Load() = %v, want nil", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("name: a\ninterval: 15s\ninner: {roots: [/a]}\n"))
	f.Add([]byte("name: &a [*a]\n"))
	f.Add([]byte("---\n...\n---\n"))
	f.Add([]byte("{? [a]: b}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		var c config
		if err := Decode(content, &c); err == nil && c.Name == "" {
			t.Errorf("Decode(%q) accepts what Validate refuses", content)
		}
	})
}
