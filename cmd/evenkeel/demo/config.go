package demo

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/evenkeel/evenkeel/alerts"
	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/sim/pki"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// speed is the one factor by which the demo divides durations: those of the
// policy's timing block, of the agents' timing block, and the alert rules' for
// and interval. Nothing else of what is shipped differs.
const speed = 20

const (
	clusterName = "demo"
	modelName   = "tiny-moe"
	jobName     = "pretrain"
)

// handsOff is the shipped policy hands-off with its timing divided.
func handsOff() ([]byte, error) {
	shipped, err := policy.ShippedFile(policy.NameHandsOff)
	if err != nil {
		return nil, err
	}
	return scaleTiming(shipped, speed)
}

// rules are the shipped alert rules with their for and interval divided.
func rules() ([]byte, error) { return alerts.Scaled(speed) }

// agentTiming is the catalogue's timing, divided.
func agentTiming() fault.Timing {
	t := fault.DefaultTiming()
	return fault.Timing{ConfirmWindow: t.ConfirmWindow / speed, ConfirmHold: t.ConfirmHold / speed, ClearHold: t.ClearHold / speed}
}

// agentConfig sets a node's agent up. Reading every second and reporting every
// second are settings of any installation, not compressed time.
func agentConfig(node, remediator, storeURL, ca string, client pki.Pair) string {
	t := agentTiming()
	return fmt.Sprintf(`cluster: %s
node: %s
report:
  url: %s
  heartbeat: 1s
  tls: {ca_file: %s, cert_file: %s, key_file: %s}
metrics: {interval: 1s}
remote_write: {url: %s/api/v1/write}
timing: {confirm_window: %s, confirm_hold: %s, clear_hold: %s}
sources:
  stale_after: 5s
  device: {interval: 500ms, deadline: 2s}
`, clusterName, node, remediator, ca, client.CertFile, client.KeyFile, storeURL, t.ConfirmWindow, t.ConfirmHold, t.ClearHold)
}

func remediatorConfig(c *cluster, policyFile string) string {
	return fmt.Sprintf(`cluster: %s
policy_file: %s
access:
  roles:
    read: [collector]
    wake: [alertmanager]
    admin: [operator]
hyperpod: {cluster_name: %s, region: %s, endpoint: %s}
orchestrator:
  command: {program: [%s, simulate, schedulerctl], endpoint: %s, timeout: 5s}
alertmanager: {url: %s, interval: 1s}
checkpoints: {roots: [%s]}
remote_write: {url: %s/api/v1/write}
metrics_interval: 1s
`, clusterName, policyFile, clusterName, demoRegion, c.urls.hyperpod, filepath.Join(c.bin, "evenkeel"), c.urls.scheduler,
		c.urls.alertmanager, c.checkpoints, c.urls.store)
}

func collectorConfig(c *cluster, client pki.Pair) string {
	return fmt.Sprintf(`cluster: %s
access:
  roles:
    push: [engine]
    read: [operator]
engines: {target_file: %s, refresh_interval: 1s, scrape_interval: 1s, scrape_timeout: 1s}
kv_cache: {window: 10s}
expert_load: {stale_after: 10s}
nodes:
  url: %s/v1/nodes
  interval: 500ms
  tls: {ca_file: %s, cert_file: %s, key_file: %s}
store: {url: %s, freshness: 5s}
remote_write: {url: %s/api/v1/write, spool: {path: %s}}
push_interval: 1s
`, clusterName, filepath.Join(c.dir, "engines.json"), c.urls.remediator, c.authority.CAFile(), client.CertFile, client.KeyFile,
		c.urls.store, c.urls.store, filepath.Join(c.dir, "collector"))
}

// write puts content into a file of the demo's folder and gives its path.
func (c *cluster) write(name, content string) (string, error) {
	path := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return path, nil
}

// lastElements is the end of a path, as much as a person needs to recognise it.
func lastElements(path string) string {
	elements := strings.Split(filepath.ToSlash(path), "/")
	return strings.Join(elements[max(0, len(elements)-2):], "/")
}
