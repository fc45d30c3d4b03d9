package alerts

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// Scaled returns the shipped rules with every `for`, `interval` and
// `keep_firing_for` divided by factor, for clusters whose time is compressed by
// it. Every other byte is the shipped file's. Range selectors and thresholds
// are not durations that pace a decision and stay.
func Scaled(factor int) ([]byte, error) { return scale(Rules(), factor) }

// edit replaces one scalar of a YAML text.
type edit struct {
	line, column int // 1-based, where the scalar starts
	old, new     string
}

func scale(rules []byte, factor int) ([]byte, error) {
	if factor < 1 {
		return nil, fmt.Errorf("factor must be at least 1, got %d", factor)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(rules, &doc); err != nil {
		return nil, fmt.Errorf("parse rules: %w", err)
	}
	if len(doc.Content) == 0 {
		return nil, errors.New("parse rules: empty document")
	}
	var edits []edit
	for _, group := range items(doc.Content[0], "groups") {
		found, err := durations(group, factor, "interval")
		if err != nil {
			return nil, err
		}
		edits = append(edits, found...)
		for _, rule := range items(group, "rules") {
			found, err := durations(rule, factor, "for", "keep_firing_for")
			if err != nil {
				return nil, err
			}
			edits = append(edits, found...)
		}
	}
	return apply(rules, edits)
}

// items gives the elements of the sequence under key, nil if there is none.
func items(mapping *yaml.Node, key string) []*yaml.Node {
	if value := lookup(mapping, key); value != nil && value.Kind == yaml.SequenceNode {
		return value.Content
	}
	return nil
}

func lookup(mapping *yaml.Node, key string) *yaml.Node {
	if mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// durations gives the edits that divide the values under keys by factor.
func durations(mapping *yaml.Node, factor int, keys ...string) ([]edit, error) {
	var edits []edit
	for _, key := range keys {
		value := lookup(mapping, key)
		if value == nil {
			continue
		}
		if value.Kind != yaml.ScalarNode || value.Style != 0 {
			return nil, fmt.Errorf("line %d: %s must be a plain scalar", value.Line, key)
		}
		d, err := model.ParseDuration(value.Value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", value.Line, key, err)
		}
		edits = append(edits, edit{line: value.Line, column: value.Column, old: value.Value, new: divide(d, factor).String()})
	}
	return edits, nil
}

// divide rounds down to the millisecond, the finest that rules can say, but
// makes no duration zero: an interval of zero means the engine's default.
func divide(d model.Duration, factor int) model.Duration {
	if d == 0 {
		return 0
	}
	scaled := time.Duration(d) / time.Duration(factor)
	return model.Duration(max(scaled.Truncate(time.Millisecond), time.Millisecond))
}

// apply makes the edits; there is at most one on a line, as keys of a block
// mapping stand on lines of their own.
func apply(text []byte, edits []edit) ([]byte, error) {
	lines := bytes.Split(text, []byte("\n"))
	edited := make(map[int]bool, len(edits))
	for _, e := range edits {
		line := string(lines[e.line-1])
		if edited[e.line] || !strings.HasPrefix(line[e.column-1:], e.old) {
			return nil, fmt.Errorf("line %d: rules must be written in block style", e.line)
		}
		edited[e.line] = true
		lines[e.line-1] = []byte(line[:e.column-1] + e.new + line[e.column-1+len(e.old):])
	}
	return bytes.Join(lines, []byte("\n")), nil
}
