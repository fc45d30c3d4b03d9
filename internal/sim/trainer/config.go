// Package trainer is the training job of the simulated cluster. It really
// computes: a small mixture-of-experts model, trained by gradient descent with
// one logical rank per GPU, expert parallel, on a deterministic data stream. It
// writes real PyTorch distributed checkpoints, and a run that is killed and
// resumed from one gives the same losses, bit for bit, as a run that was left
// alone.
//
// What goes wrong in it is always a cause, never an effect: a torn checkpoint
// is a rank's shard that did not reach the disk, a hot expert is a router that
// prefers it, so that its rank has more to do and takes longer.
package trainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Config is what a trainer process is started with.
type Config struct {
	Job string `json:"job"`
	// Ranks lists where each rank runs; the index is the rank.
	Ranks []Rank `json:"ranks"`

	Layers int `json:"layers"`
	// Experts per layer, a multiple of the number of ranks; rank r holds the
	// r-th part of them. 0 for the least multiple that is at least 8.
	Experts int `json:"experts"`
	// Dim is the width of the model, and of the square expert matrices.
	Dim int `json:"dim"`
	// TokensPerRank is the number of tokens that each rank feeds in per step.
	TokensPerRank int    `json:"tokens_per_rank"`
	Seed          uint64 `json:"seed"`

	// Steps is the last step; 0 to train until stopped.
	Steps int `json:"steps"`
	// StepsPerSecond paces the training; 0 for as fast as it goes.
	StepsPerSecond float64 `json:"steps_per_second"`

	// CheckpointDir gets a folder step-<N> every CheckpointEvery steps; 0 for none.
	CheckpointDir   string `json:"checkpoint_dir"`
	CheckpointEvery int    `json:"checkpoint_every"`
	// Resume is the checkpoint folder to go on from, empty to begin anew.
	Resume string `json:"resume"`

	// LossLog is a file that gets a JSON line for each step.
	LossLog string `json:"loss_log"`
	// CausesPath is a file, read before each step, that says what is to go wrong;
	// see Causes. It need not exist.
	CausesPath string `json:"causes_path"`
	// TearAt is a step whose checkpoint is torn; 0 for none.
	TearAt int `json:"tear_at"`

	ExpertLoad ExpertLoad `json:"expert_load"`

	// Events gets a JSON line for each Event; nil for none.
	Events io.Writer `json:"-"`
}

// Rank is one logical rank.
type Rank struct {
	Node       string `json:"node"`
	DeviceUUID string `json:"device_uuid"`
}

// ExpertLoad says where the counts of the router go.
type ExpertLoad struct {
	// WindowSeconds is the length of a window; 0 to count nothing.
	WindowSeconds float64 `json:"window_seconds"`
	Cluster       string  `json:"cluster"`
	Model         string  `json:"model"`
	Replica       string  `json:"replica"`
	// Path is a file that gets a JSON line for each window, empty for none.
	Path string `json:"path"`
	// URL is the collector's address that each window is posted to, empty for none.
	URL string `json:"url"`
	// CertFile and KeyFile are this client's certificate, CAFile verifies the
	// collector's; PEM. Empty for none.
	CertFile string `json:"cert_file"`
	KeyFile  string `json:"key_file"`
	CAFile   string `json:"ca_file"`
}

// topK is how many experts each token goes to.
const topK = 2

// DecodeConfig reads a configuration as JSON and fills in the defaults. Unknown
// fields are refused.
func DecodeConfig(r io.Reader) (Config, error) {
	var c Config
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("trainer configuration: %w", err)
	}
	c.fillDefaults()
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("trainer configuration: %w", err)
	}
	return c, nil
}

func (c *Config) fillDefaults() {
	setDefault(&c.Layers, 2)
	setDefault(&c.Dim, 32)
	setDefault(&c.TokensPerRank, 32)
	if n := len(c.Ranks); n > 0 {
		setDefault(&c.Experts, (8+n-1)/n*n)
	}
	setDefault(&c.ExpertLoad.Model, "tiny-moe")
	setDefault(&c.ExpertLoad.Replica, "r0")
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Bounds keep a mistyped number from taking the machine.
const (
	maxRanks  = 1024
	maxLayers = 64
	maxDim    = 512
	maxTokens = 4096
)

// Validate names every field that cannot work.
func (c *Config) Validate() error {
	var errs []error
	within := func(field string, value, low, high int) {
		if value < low || value > high {
			errs = append(errs, fmt.Errorf("%s: must be from %d to %d, got %d", field, low, high, value))
		}
	}
	within("ranks", len(c.Ranks), 1, maxRanks)
	within("layers", c.Layers, 1, maxLayers)
	within("dim", c.Dim, 1, maxDim)
	within("tokens_per_rank", c.TokensPerRank, 1, maxTokens)
	within("experts", c.Experts, topK, 8*maxRanks)
	if n := len(c.Ranks); n > 0 && c.Experts%n != 0 {
		errs = append(errs, fmt.Errorf("experts: must be a multiple of the %d ranks, got %d", n, c.Experts))
	}
	if c.Steps < 0 {
		errs = append(errs, fmt.Errorf("steps: must not be negative, got %d", c.Steps))
	}
	if !(c.StepsPerSecond >= 0 && c.StepsPerSecond <= 1e6) {
		errs = append(errs, fmt.Errorf("steps_per_second: must be from 0 to 1e6, got %v", c.StepsPerSecond))
	}
	if c.CheckpointEvery < 0 || (c.CheckpointEvery > 0 && c.CheckpointDir == "") {
		errs = append(errs, errors.New("checkpoint_every: must not be negative, and needs checkpoint_dir"))
	}
	if w := c.ExpertLoad.WindowSeconds; !(w >= 0 && w <= 86400) {
		errs = append(errs, fmt.Errorf("expert_load.window_seconds: must be from 0 to 86400, got %v", w))
	}
	return errors.Join(errs...)
}
