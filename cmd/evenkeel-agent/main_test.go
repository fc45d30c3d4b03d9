package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, bad := file("good.yaml", "cluster: c1\n"), file("bad.yaml", "cluster: c1\nmetrics: {intervall: 1s}\n")
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		want   string // somewhere in the output
	}{
		{"help", []string{"--help"}, 0, "--path.kmsg"},
		{"version", []string{"--version"}, 0, "evenkeel-agent, version"},
		{"valid configuration", []string{"--config.file=" + good, "--config.check"}, 0, "is valid"},
		{"typing error", []string{"--config.file=" + bad, "--config.check"}, 2, "intervall"},
		{"no configuration", []string{"--config.file=" + filepath.Join(dir, "none")}, 2, "none"},
		{"unknown flag", []string{"--path.kmesg=x"}, 2, "kmesg"},
		{"no boot id", []string{"--config.file=" + good, "--path.state=" + dir, "--path.boot-id=" + filepath.Join(dir, "none")}, 1, "boot id"},
		{"address in use", []string{"--config.file=" + good, "--path.state=" + dir, "--path.kmsg=" + good, "--web.listen-address=256.0.0.1:1"}, 1, "serve HTTP"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			status := run(context.Background(), tc.args, &out, &out)
			if status != tc.status || !strings.Contains(out.String(), tc.want) {
				t.Errorf("run(%q) = %d, want %d and %q in:\n%s", tc.args, status, tc.status, tc.want, out.String())
			}
		})
	}
}
