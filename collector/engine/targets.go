package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Target is one endpoint to scrape and what it belongs to.
type Target struct {
	// Address is host:port, as the file has it.
	Address string
	URL     string
	Model   string
	Replica string
	Job     string
}

// Bounds of a target file.
const (
	maxTargetFileBytes = 8 << 20
	maxTargets         = 10_000
	maxLabelLength     = 253
)

// targetGroup is an element of Prometheus's file_sd format. JSON is YAML.
type targetGroup struct {
	Targets []string          `yaml:"targets"`
	Labels  map[string]string `yaml:"labels"`
}

// ParseTargets reads the content of a target file, which has the format of
// Prometheus's file-based service discovery. The labels model and replica are
// required: they are what expert load and cache use are joined by. job,
// __scheme__ and __metrics_path__ are optional; other labels are left to the
// Prometheus that shares the file.
func ParseTargets(content []byte) ([]Target, error) {
	if len(content) > maxTargetFileBytes {
		return nil, fmt.Errorf("larger than %d bytes", maxTargetFileBytes)
	}
	d := yaml.NewDecoder(bytes.NewReader(content))
	d.KnownFields(true)
	var groups []targetGroup
	if err := d.Decode(&groups); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one document")
	}
	var targets []Target
	seen := make(map[string]string)
	for i, g := range groups {
		if err := g.validate(); err != nil {
			return nil, fmt.Errorf("[%d].%w", i, err)
		}
		for j, address := range g.Targets {
			field := fmt.Sprintf("[%d].targets[%d]", i, j)
			t, err := g.target(address)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", field, err)
			}
			// The address is the label "target" of what is exported about a scrape.
			if other, ok := seen[address]; ok {
				return nil, fmt.Errorf("%s: %s is %s already", field, address, other)
			}
			if len(targets) == maxTargets {
				return nil, fmt.Errorf("%s: more than %d targets", field, maxTargets)
			}
			seen[address] = field
			targets = append(targets, t)
		}
	}
	return targets, nil
}

func (g targetGroup) validate() error {
	for _, name := range slices.Sorted(maps.Keys(g.Labels)) {
		value := g.Labels[name]
		if len(value) > maxLabelLength || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
			return fmt.Errorf("labels.%s: must be at most %d bytes of text", name, maxLabelLength)
		}
	}
	for _, name := range []string{"model", "replica"} {
		if g.Labels[name] == "" {
			return fmt.Errorf("labels.%s: must be set", name)
		}
	}
	if s := g.Labels["__scheme__"]; s != "" && s != "http" && s != "https" {
		return fmt.Errorf("labels.__scheme__: must be http or https, got %q", s)
	}
	if p := g.Labels["__metrics_path__"]; p != "" && !strings.HasPrefix(p, "/") {
		return fmt.Errorf("labels.__metrics_path__: must begin with /, got %q", p)
	}
	return nil
}

func (g targetGroup) target(address string) (Target, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" || len(address) > maxLabelLength {
		return Target{}, fmt.Errorf("%.64q is not host:port", address)
	}
	u := url.URL{Scheme: "http", Host: address, Path: "/metrics"}
	if s := g.Labels["__scheme__"]; s != "" {
		u.Scheme = s
	}
	if p := g.Labels["__metrics_path__"]; p != "" {
		u.Path = p
	}
	parsed, err := url.Parse(u.String())
	if err != nil || parsed.Host != address || strings.ContainsFunc(address, unicode.IsSpace) {
		return Target{}, fmt.Errorf("%.64q is not host:port", address)
	}
	return Target{Address: address, URL: u.String(), Model: g.Labels["model"], Replica: g.Labels["replica"], Job: g.Labels["job"]}, nil
}

// TargetFile is a file of targets that may change while it is in use.
type TargetFile struct {
	Path string

	content []byte
	read    bool
}

// Read gives the targets, and whether they changed since the last call. On an
// error the caller keeps what it has: an unreadable file is not an empty one.
func (f *TargetFile) Read() (targets []Target, changed bool, err error) {
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, false, fmt.Errorf("read target file: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxTargetFileBytes+1))
	if err != nil {
		return nil, false, fmt.Errorf("read target file %s: %w", f.Path, err)
	}
	if f.read && bytes.Equal(content, f.content) {
		return nil, false, nil
	}
	targets, err = ParseTargets(content)
	if err != nil {
		return nil, false, fmt.Errorf("target file %s: %w", f.Path, err)
	}
	f.content, f.read = content, true
	return targets, true, nil
}
