package remediate

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/evenkeel/evenkeel/internal/httpserve"
	"github.com/evenkeel/evenkeel/internal/strictyaml"
	"github.com/evenkeel/evenkeel/remediate/command"
	"github.com/evenkeel/evenkeel/remediate/hyperpod"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

const exampleFile = "../deploy/config/remediator.yaml"

// TestExampleConfig holds the shipped example to what it says of itself: it is
// valid, it shows every key, and apart from what names a site it shows the
// defaults.
func TestExampleConfig(t *testing.T) {
	c, p, err := LoadConfig(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if p.Version != mustShip(t, policy.NameObserve).Version {
		t.Errorf("policy in force is %s, want the shipped one that observes", p.Version)
	}
	site := DefaultConfig()
	site.Cluster = "hp-train"
	site.Access.Roles = map[httpserve.Role][]string{
		httpserve.RoleRead: {"collector"}, httpserve.RoleWake: {"alertmanager"}, httpserve.RoleAdmin: {"operator"},
	}
	site.HyperPod = &hyperpod.Config{ClusterName: "hp-train", Region: "us-west-2"}
	site.Orchestrator.Command = &command.Config{Program: []string{"/usr/local/bin/evenkeel-slurm"}, Timeout: command.DefaultTimeout}
	site.Alertmanager.URL = "https://alertmanager.example.com"
	site.Checkpoints.Roots = []string{"/fsx/checkpoints"}
	if diff := cmp.Diff(site, c); diff != "" {
		t.Errorf("example (-defaults and the site's names, +example):\n%s", diff)
	}
	content, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(content, &tree); err != nil {
		t.Fatal(err)
	}
	for _, key := range missingKeys(reflect.TypeFor[Config](), tree, "") {
		if !strings.Contains(string(content), "# "+key[strings.LastIndexByte(key, '.')+1:]+":") {
			t.Errorf("example does not show %s", key)
		}
	}
}

// missingKeys gives the keys of a configuration type that the tree lacks.
func missingKeys(of reflect.Type, tree map[string]any, path string) []string {
	var missing []string
	for field := range of.Fields() {
		name := strings.Split(field.Tag.Get("yaml"), ",")[0]
		value, there := tree[name]
		if !there {
			missing = append(missing, path+name)
			continue
		}
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if below, ok := value.(map[string]any); ok && inner.Kind() == reflect.Struct {
			missing = append(missing, missingKeys(inner, below, path+name+".")...)
		}
	}
	return missing
}

func mustShip(t *testing.T, name string) policy.Policy {
	t.Helper()
	p, err := policy.Shipped(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConfigErrorsNameTheField(t *testing.T) {
	const valid = "cluster: hp\n"
	for _, test := range []struct{ content, want string }{
		{valid, ""},
		{"", "cluster: "},
		{"cluster: h p\n", "cluster: "},
		{valid + "max_nodes: 0\n", "max_nodes: "},
		{valid + "max_nodes: -1\n", "max_nodes: "},
		{valid + "metrics_interval: 0s\n", "metrics_interval: "},
		{valid + "access: {roles: {root: [a]}}\n", "access.roles: "},
		{valid + "hyperpod: {region: us-west-2}\n", "hyperpod: cluster_name: "},
		{valid + "hyperpod: {cluster_name: hp, region: us-west-2, endpoint: \"http://10.0.0.1\"}\n", "hyperpod: endpoint: "},
		{valid + "orchestrator: {command: {program: [slurm]}}\n", "orchestrator.command: program: "},
		{valid + "orchestrator: {slurm: {}}\n", "slurm"},
		{valid + "alertmanager: {url: nowhere}\n", "alertmanager.url: "},
		{valid + "checkpoints: {roots: [/fsx, fsx]}\n", "checkpoints.roots[1]: "},
		{valid + "remote_write: {url: nowhere}\n", "remote_write.url: "},
		{valid + "policy: x\n", "policy"},
	} {
		c := DefaultConfig()
		err := strictyaml.Decode([]byte(test.content), &c)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("Decode(%q) = %v, want %q", test.content, err, test.want)
		}
	}
}

func TestPolicyFileIsBesideTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	handsOff, err := policy.ShippedFile(policy.NameHandsOff)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "policy.yaml"), string(handsOff))
	write(t, filepath.Join(dir, "c.yaml"), "cluster: hp\npolicy_file: policy.yaml\n")
	if _, p, err := LoadConfig(filepath.Join(dir, "c.yaml")); err != nil || p.Version != mustShip(t, policy.NameHandsOff).Version {
		t.Errorf("LoadConfig() = policy %q, %v, want the policy beside it", p.Version, err)
	}
	write(t, filepath.Join(dir, "policy.yaml"), "version: x\nrules: [{name: a}]\n")
	if _, _, err := LoadConfig(filepath.Join(dir, "c.yaml")); err == nil || !strings.Contains(err.Error(), "policy_file: ") || !strings.Contains(err.Error(), "rules[0]") {
		t.Errorf("LoadConfig() with a broken policy = %v, want policy_file and rules[0] named", err)
	}
	if _, _, err := LoadConfig(filepath.Join(dir, "missing.yaml")); err == nil {
		t.Error("LoadConfig() of a missing file = nil, want an error")
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTickFollowsTheTiming keeps a shortened demonstration as exact as the real
// pace.
func TestTickFollowsTheTiming(t *testing.T) {
	timing := policy.DefaultTiming()
	if got := tick(timing); got != time.Second {
		t.Errorf("tick of the shipped timing = %s, want 1s", got)
	}
	timing.HealthyFor = 3 * time.Second
	if got := tick(timing); got != 200*time.Millisecond {
		t.Errorf("tick with healthy_for 3s = %s, want 200ms", got)
	}
	timing.Poll = time.Millisecond
	if got := tick(timing); got != 10*time.Millisecond {
		t.Errorf("tick with poll 1ms = %s, want the floor of 10ms", got)
	}
}
