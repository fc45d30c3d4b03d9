// Package strictyaml reads configuration: exactly one YAML document, no unknown
// key, and every complaint with the file and the field it is about. It refuses
// to guess.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v3"
)

// maxBytes bounds a configuration file; the largest real one is a few KiB.
const maxBytes = 1 << 20

// Validator is a configuration that can say what is wrong with it.
type Validator interface{ Validate() error }

// Load reads the file into config, which holds the defaults, and validates it.
func Load(path string, config Validator) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return fmt.Errorf("read configuration %s: %w", path, err)
	}
	if err := Decode(content, config); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Decode is Load for content that is in memory.
func Decode(content []byte, config Validator) error {
	if len(content) > maxBytes {
		return fmt.Errorf("larger than %d bytes", maxBytes)
	}
	d := yaml.NewDecoder(bytes.NewReader(content))
	d.KnownFields(true)
	if err := d.Decode(config); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var more yaml.Node
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return errors.New("holds more than one YAML document")
	}
	return config.Validate()
}
