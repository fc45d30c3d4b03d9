package remediate

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/httpserve"
	"github.com/evenkeel/evenkeel/internal/remotewrite"
	"github.com/evenkeel/evenkeel/internal/strictyaml"
	"github.com/evenkeel/evenkeel/remediate/alertmanager"
	"github.com/evenkeel/evenkeel/remediate/command"
	"github.com/evenkeel/evenkeel/remediate/hyperpod"
	"github.com/evenkeel/evenkeel/remediate/ingest"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// Config is the remediator's configuration file.
type Config struct {
	// Cluster is the name that reports and metrics carry.
	Cluster string `yaml:"cluster"`
	// PolicyFile holds what is done about which fault; empty for the shipped policy
	// observe, which touches nothing. A relative path is relative to the
	// configuration file.
	PolicyFile string           `yaml:"policy_file"`
	Access     httpserve.Access `yaml:"access"`
	// MaxNodes bounds how many nodes may report.
	MaxNodes int `yaml:"max_nodes"`
	// HyperPod is the provider; nil leaves it out, and nothing can be replaced.
	HyperPod *hyperpod.Config `yaml:"hyperpod"`
	// Orchestrator isolates nodes and runs jobs.
	Orchestrator Orchestrator        `yaml:"orchestrator"`
	Alertmanager alertmanager.Config `yaml:"alertmanager"`
	Checkpoints  Checkpoints         `yaml:"checkpoints"`
	RemoteWrite  remotewrite.Config  `yaml:"remote_write"`
	// MetricsInterval is the time between two pushes of the remediator's own
	// metrics, if remote_write.url is set.
	MetricsInterval time.Duration `yaml:"metrics_interval"`
}

// Orchestrator names the adapter in use; without one nothing can be isolated.
type Orchestrator struct {
	Command *command.Config `yaml:"command"`
}

// Checkpoints says where jobs may keep their checkpoints.
type Checkpoints struct {
	// Roots are absolute paths; a folder outside them is never read.
	Roots []string `yaml:"roots"`
}

// DefaultConfig holds everything but the cluster's name and what reaches outside
// the process.
func DefaultConfig() Config {
	return Config{
		MaxNodes:        ingest.DefaultMaxNodes,
		Alertmanager:    alertmanager.DefaultConfig(),
		RemoteWrite:     remotewrite.DefaultConfig(),
		MetricsInterval: 15 * time.Second,
	}
}

// LoadConfig reads a configuration file and the policy that it names.
func LoadConfig(path string) (Config, policy.Policy, error) {
	c := DefaultConfig()
	if err := strictyaml.Load(path, &c); err != nil {
		return Config{}, policy.Policy{}, err
	}
	if c.PolicyFile == "" {
		p, err := policy.Shipped(policy.NameObserve)
		return c, p, err
	}
	if !filepath.IsAbs(c.PolicyFile) {
		c.PolicyFile = filepath.Join(filepath.Dir(path), c.PolicyFile)
	}
	p, err := policy.Load(c.PolicyFile)
	if err != nil {
		return Config{}, policy.Policy{}, fmt.Errorf("policy_file: %w", err)
	}
	return c, p, nil
}

// Validate names every field that cannot work.
func (c *Config) Validate() error {
	var errs []error
	if !fault.ValidName(c.Cluster) {
		errs = append(errs, fmt.Errorf("cluster: %.64q is not a name", c.Cluster))
	}
	if c.MaxNodes <= 0 {
		errs = append(errs, fmt.Errorf("max_nodes: must be positive, got %d", c.MaxNodes))
	}
	if c.MetricsInterval <= 0 {
		errs = append(errs, fmt.Errorf("metrics_interval: must be positive, got %s", c.MetricsInterval))
	}
	errs = append(errs, c.Access.Validate())
	if c.HyperPod != nil {
		errs = append(errs, within("hyperpod", c.HyperPod.Validate()))
	}
	if o := c.Orchestrator.Command; o != nil {
		errs = append(errs, within("orchestrator.command", o.Validate()))
	}
	errs = append(errs, c.Alertmanager.Validate())
	for i, root := range c.Checkpoints.Roots {
		if !filepath.IsAbs(root) {
			errs = append(errs, fmt.Errorf("checkpoints.roots[%d]: %q is not an absolute path", i, root))
		}
	}
	errs = append(errs, c.RemoteWrite.Validate())
	return errors.Join(errs...)
}

func within(block string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", block, err)
}
