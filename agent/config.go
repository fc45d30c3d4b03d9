package agent

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/httpclient"
	"github.com/evenkeel/evenkeel/internal/remotewrite"
)

// Config is the agent's configuration file.
type Config struct {
	// Cluster names the cluster in every report and on every sample.
	Cluster string `yaml:"cluster"`
	// Node is the name under which the orchestrator knows the node; empty for the
	// host's name.
	Node        string             `yaml:"node"`
	Report      ReportConfig       `yaml:"report"`
	Metrics     MetricsConfig      `yaml:"metrics"`
	RemoteWrite remotewrite.Config `yaml:"remote_write"`
	// Timing paces the findings: how long until one is confirmed or ended.
	Timing  fault.Timing  `yaml:"timing"`
	Sources SourcesConfig `yaml:"sources"`
}

// ReportConfig says where node reports go.
type ReportConfig struct {
	// URL is the remediator's base URL; empty for no reports.
	URL string `yaml:"url"`
	// Heartbeat is the longest time between two reports.
	Heartbeat time.Duration `yaml:"heartbeat"`
	// Timeout bounds one report.
	Timeout time.Duration  `yaml:"timeout"`
	TLS     httpclient.TLS `yaml:"tls"`
}

// MetricsConfig says how often metrics are made.
type MetricsConfig struct {
	Interval time.Duration `yaml:"interval"`
}

// SourcesConfig tunes what is observed.
type SourcesConfig struct {
	// StaleAfter is how long a source may be silent before what it said last no
	// longer counts.
	StaleAfter time.Duration `yaml:"stale_after"`
	Kernel     KernelConfig  `yaml:"kernel"`
	Device     DeviceConfig  `yaml:"device"`
}

// KernelConfig tunes the kernel log.
type KernelConfig struct {
	// Interval is how often a quiet log is known to be quiet.
	Interval time.Duration `yaml:"interval"`
}

// DeviceConfig tunes the readings of devices.
type DeviceConfig struct {
	Interval time.Duration `yaml:"interval"`
	// Deadline is how long a reading may take before it counts as hung.
	Deadline time.Duration `yaml:"deadline"`
}

// DefaultConfig is a configuration in which only the cluster's name is missing.
//
// Heartbeat: a sixth of the minute after which the remediator takes a node for
// silent would be enough; half of that again costs one small request. Deadline:
// NVML answers in milliseconds, and a driver that waits for a dead GSP blocks
// for 6 s. StaleAfter: several of the slowest readings.
func DefaultConfig() Config {
	return Config{
		Report:      ReportConfig{Heartbeat: 5 * time.Second, Timeout: 2 * time.Second},
		Metrics:     MetricsConfig{Interval: 15 * time.Second},
		RemoteWrite: remotewrite.DefaultConfig(),
		Timing:      fault.DefaultTiming(),
		Sources: SourcesConfig{
			StaleAfter: 30 * time.Second,
			Kernel:     KernelConfig{Interval: time.Second},
			Device:     DeviceConfig{Interval: time.Second, Deadline: 5 * time.Second},
		},
	}
}

// Validate names every field that is wrong.
func (c *Config) Validate() error {
	var errs []error
	if !fault.ValidName(c.Cluster) {
		errs = append(errs, fmt.Errorf("cluster: %.64q is not a name (letters, digits, dots, dashes, underscores)", c.Cluster))
	}
	if c.Node != "" && !fault.ValidName(c.Node) {
		errs = append(errs, fmt.Errorf("node: %.64q is not a name", c.Node))
	}
	if c.Report.URL != "" {
		errs = append(errs, httpclient.ValidateURL("report.url", c.Report.URL))
	}
	errs = append(errs, c.Report.TLS.Validate("report.tls"))
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"report.heartbeat", c.Report.Heartbeat},
		{"report.timeout", c.Report.Timeout},
		{"metrics.interval", c.Metrics.Interval},
		{"timing.confirm_window", c.Timing.ConfirmWindow},
		{"timing.confirm_hold", c.Timing.ConfirmHold},
		{"timing.clear_hold", c.Timing.ClearHold},
		{"sources.stale_after", c.Sources.StaleAfter},
		{"sources.kernel.interval", c.Sources.Kernel.Interval},
		{"sources.device.interval", c.Sources.Device.Interval},
		{"sources.device.deadline", c.Sources.Device.Deadline},
	} {
		if d.value <= 0 {
			errs = append(errs, fmt.Errorf("%s: must be positive, got %s", d.field, d.value))
		}
	}
	if slowest := max(c.Sources.Kernel.Interval, c.Sources.Device.Interval, c.Sources.Device.Deadline); c.Sources.StaleAfter <= slowest {
		errs = append(errs, fmt.Errorf("sources.stale_after: must be longer than every source's interval and deadline (%s), got %s", slowest, c.Sources.StaleAfter))
	}
	errs = append(errs, c.RemoteWrite.Validate())
	return errors.Join(errs...)
}

// node gives the node's name.
func (c *Config) node() (string, error) {
	if c.Node != "" {
		return c.Node, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("node: not set, and the host has no name: %w", err)
	}
	if !fault.ValidName(name) {
		return "", fmt.Errorf("node: not set, and the host's name %.64q cannot be one", name)
	}
	return name, nil
}
