package trainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Causes is what is to go wrong, as JSON in the file Config.CausesPath. The
// file is read before each step; replace it by renaming.
type Causes struct {
	// Hot makes the router prefer an expert; nil for none.
	Hot *Hot `json:"hot,omitempty"`
	// Slow has, for each rank on slow hardware, how many times longer it takes
	// for the same work (2 or more).
	Slow map[int]int `json:"slow,omitempty"`
}

// Hot is an expert that the data of the moment prefers.
type Hot struct {
	// Layer is the layer, -1 for all.
	Layer  int `json:"layer"`
	Expert int `json:"expert"`
	// Share of the tokens that go to it, from 0 to 1.
	Share float64 `json:"share"`
}

// maxSlow bounds Causes.Slow.
const maxSlow = 1000

// readCauses reads the file of causes; nothing goes wrong if it is not there.
func readCauses(path string, c *Config) (Causes, error) {
	var causes Causes
	if path == "" {
		return causes, nil
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return causes, nil
	}
	if err != nil {
		return causes, fmt.Errorf("read causes: %w", err)
	}
	if err := json.Unmarshal(content, &causes); err != nil {
		return Causes{}, fmt.Errorf("read causes %s: %w", path, err)
	}
	if err := causes.validate(c); err != nil {
		return Causes{}, fmt.Errorf("read causes %s: %w", path, err)
	}
	return causes, nil
}

func (causes *Causes) validate(c *Config) error {
	if h := causes.Hot; h != nil {
		switch {
		case h.Layer < -1 || h.Layer >= c.Layers:
			return fmt.Errorf("hot.layer: there is no layer %d", h.Layer)
		case h.Expert < 0 || h.Expert >= c.Experts:
			return fmt.Errorf("hot.expert: there is no expert %d", h.Expert)
		case !(h.Share >= 0 && h.Share <= 1):
			return fmt.Errorf("hot.share: must be from 0 to 1, got %v", h.Share)
		}
	}
	for rank, factor := range causes.Slow {
		if rank < 0 || rank >= len(c.Ranks) || factor < 1 || factor > maxSlow {
			return fmt.Errorf("slow: rank %d with factor %d", rank, factor)
		}
	}
	return nil
}

// tearFile in the checkpoint folder tears the next checkpoint, and is removed
// by it.
const tearFile = "TEAR"

// takeTear reports whether the checkpoint at step is to be torn.
func takeTear(c *Config, step int) bool {
	asked := os.Remove(filepath.Join(c.CheckpointDir, tearFile)) == nil
	return asked || (c.TearAt > 0 && step == c.TearAt)
}
