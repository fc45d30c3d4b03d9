package simdevice

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// Bounds of a file that is taken.
const (
	maxFileBytes = 1 << 20
	maxGPUs      = 64
	maxLinks     = 64
	maxProcesses = 1024
	maxText      = 128 // bytes of a name
)

// Document is the content of the file. Values that it leaves out are not known.
type Document struct {
	GPUs      []GPU           `json:"gpus"`
	Processes []fault.Process `json:"processes"`
}

// GPU is one accelerator.
type GPU struct {
	Index int    `json:"index"`
	UUID  string `json:"uuid"`
	PCI   string `json:"pci"` // in any spelling that fault.NormalizePCI takes
	Model string `json:"model"`

	Temperature         *float64 `json:"temperature_celsius"`
	SlowdownTemperature *float64 `json:"slowdown_temperature_celsius"`
	Power               *float64 `json:"power_watts"`
	SMClock             *float64 `json:"sm_clock_hertz"`
	MaxSMClock          *float64 `json:"max_sm_clock_hertz"`
	Utilization         *float64 `json:"utilization_ratio"` // 0 to 1
	MemoryUsed          *float64 `json:"memory_used_bytes"`
	MemoryTotal         *float64 `json:"memory_total_bytes"`
	DoubleBitErrors     *float64 `json:"ecc_double_bit_total"`
	NVLinks             []NVLink `json:"nvlinks"`

	// Lost is what the driver says of a GPU that it cannot reach.
	Lost bool `json:"lost"`
	// Hang makes the reading block until the file changes.
	Hang bool `json:"hang"`
}

// NVLink is one link of a GPU.
type NVLink struct {
	Link   int    `json:"link"`
	Up     bool   `json:"up"`
	Errors uint64 `json:"errors_total"`
}

// Decode reads a document and names the first field that makes it unusable.
func Decode(r io.Reader) (*Document, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read devices: %w", err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("devices: larger than %d bytes", maxFileBytes)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("devices: empty file")
	}
	var d Document
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("decode devices: %w", err)
	}
	if err := d.validate(); err != nil {
		return nil, fmt.Errorf("devices: %w", err)
	}
	return &d, nil
}

// validate checks the document and brings PCI addresses into their normal form.
func (d *Document) validate() error {
	if len(d.GPUs) > maxGPUs {
		return fmt.Errorf("gpus: %d of them, at most %d are taken", len(d.GPUs), maxGPUs)
	}
	if len(d.Processes) > maxProcesses {
		return fmt.Errorf("processes: %d of them, at most %d are taken", len(d.Processes), maxProcesses)
	}
	seen := make(map[string]bool)
	for i := range d.GPUs {
		g := &d.GPUs[i]
		field := fmt.Sprintf("gpus[%d]", i)
		pci, ok := fault.NormalizePCI(g.PCI)
		switch {
		case g.Index < 0:
			return fmt.Errorf("%s.index: must not be negative, got %d", field, g.Index)
		case g.UUID == "" || len(g.UUID) > maxText:
			return fmt.Errorf("%s.uuid: must be set and at most %d bytes long", field, maxText)
		case !ok:
			return fmt.Errorf("%s.pci: %.32q is not a PCI address", field, g.PCI)
		case len(g.Model) > maxText:
			return fmt.Errorf("%s.model: must be at most %d bytes long", field, maxText)
		case len(g.NVLinks) > maxLinks:
			return fmt.Errorf("%s.nvlinks: %d of them, at most %d are taken", field, len(g.NVLinks), maxLinks)
		}
		g.PCI = pci
		for _, name := range []string{fmt.Sprintf("index %d", g.Index), "uuid " + g.UUID, "pci " + pci} {
			if seen[name] {
				return fmt.Errorf("%s: %s appears twice", field, name)
			}
			seen[name] = true
		}
	}
	for i, p := range d.Processes {
		if len(p.Job) > maxText || len(p.DeviceUUID) > maxText {
			return fmt.Errorf("processes[%d]: job and device_uuid must be at most %d bytes long", i, maxText)
		}
	}
	return nil
}

// Hung gives the GPUs whose reading does not return.
func (d *Document) Hung() []GPU {
	var out []GPU
	for _, g := range d.GPUs {
		if g.Hang {
			out = append(out, g)
		}
	}
	return out
}

func (g *GPU) subject() fault.Subject {
	index := g.Index
	return fault.Subject{Device: fault.DeviceGPU, UUID: g.UUID, PCI: g.PCI, Index: &index}
}
