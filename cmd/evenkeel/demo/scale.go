package demo

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// scaleTiming divides the durations of the document's top-level `timing` block
// by factor and leaves every other byte as it is.
func scaleTiming(document []byte, factor int) ([]byte, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(document, &root); err != nil {
		return nil, fmt.Errorf("scale timing: %w", err)
	}
	timing, err := timingBlock(&root)
	if err != nil {
		return nil, err
	}
	lines := strings.SplitAfter(string(document), "\n")
	for i := 0; i+1 < len(timing.Content); i += 2 {
		key, value := timing.Content[i], timing.Content[i+1]
		d, err := time.ParseDuration(value.Value)
		if err != nil {
			return nil, fmt.Errorf("scale timing.%s: %w", key.Value, err)
		}
		line := &lines[value.Line-1]
		before, after := (*line)[:value.Column-1], (*line)[value.Column-1:]
		rest, found := strings.CutPrefix(after, value.Value)
		if !found {
			return nil, fmt.Errorf("scale timing.%s: %q is not written plainly on line %d", key.Value, value.Value, value.Line)
		}
		*line = before + (d / time.Duration(factor)).String() + rest
	}
	return []byte(strings.Join(lines, "")), nil
}

func timingBlock(root *yaml.Node) (*yaml.Node, error) {
	if len(root.Content) != 1 || root.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("scale timing: the document is not a mapping")
	}
	top := root.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		if top[i].Value == "timing" && top[i+1].Kind == yaml.MappingNode {
			return top[i+1], nil
		}
	}
	return nil, errors.New("scale timing: the document has no timing block")
}
