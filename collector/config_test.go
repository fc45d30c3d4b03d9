package collector

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/sigv4"

	"github.com/evenkeel/evenkeel/internal/httpserve"
	"github.com/evenkeel/evenkeel/internal/strictyaml"
)

// The shipped file shows every default and says where it shows an example.
func TestExampleConfiguration(t *testing.T) {
	got := DefaultConfig()
	if err := strictyaml.Load("../deploy/config/collector.yaml", &got); err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.Cluster = "example"
	want.Access.Roles = map[httpserve.Role][]string{httpserve.RolePush: {"engine"}, httpserve.RoleRead: {"operator"}}
	want.Engines.TargetFile = "/etc/evenkeel/engines.json"
	want.Nodes.URL = "https://remediator.evenkeel.svc:9103/v1/nodes"
	want.Nodes.TLS.CAFile = "/etc/evenkeel/tls/ca.crt"
	want.Nodes.TLS.CertFile = "/etc/evenkeel/tls/tls.crt"
	want.Nodes.TLS.KeyFile = "/etc/evenkeel/tls/tls.key"
	want.Store.URL = "https://aps-workspaces.us-west-2.amazonaws.com/workspaces/ws-example"
	want.Store.SigV4 = &sigv4.SigV4Config{Region: "us-west-2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("deploy/config/collector.yaml differs from the defaults and its examples (-want +got):\n%s", diff)
	}
}

func TestConfigNamesTheField(t *testing.T) {
	tests := []struct {
		yaml string
		want string // empty for a configuration that is taken
	}{
		{"", ""},
		{"clusters: c", "field clusters not found"},
		{"cluster: a b", `cluster: "a b" is not a name`},
		{"access: {roles: {pull: [x]}}", `access.roles: unknown role "pull"`},
		{"engines: {scrape_interval: 0s}", "engines.scrape_interval: must be at least 100ms"},
		{"engines: {scrape_timeout: 16s}", "engines.scrape_timeout: must be above 0 and at most scrape_interval"},
		{"engines: {scrape_timeout: 15s}", ""},
		{"engines: {scrape_concurrency: 0}", "engines.scrape_concurrency: must be 1 to 1024"},
		{"engines: {refresh_interval: 0s}", "engines.refresh_interval: must be positive"},
		{"engines: {tls: {cert_file: x}}", "engines.tls: cert_file and key_file go together"},
		{"kv_cache: {window: 29s}", "kv_cache.window: must hold at least two scrapes"},
		{"kv_cache: {window: 30s}", ""},
		{"expert_load: {stale_after: 0s}", "expert_load.stale_after: must be positive"},
		{"expert_load: {hot_experts: -1}", "expert_load.hot_experts: must be 0 to 100"},
		{"expert_load: {hot_experts: 0}", ""},
		{"expert_load: {ranks_exported: 0}", "expert_load.ranks_exported: must be 1 to 4096"},
		{"expert_load: {max_replicas: 0}", "expert_load.max_replicas: must be 1 to 100000"},
		{"verdict: {slow_ratio: 0}", "verdict.slow_ratio: must lie between 0 and 1"},
		{"verdict: {slow_ratio: .nan}", "verdict.slow_ratio: must lie between 0 and 1"},
		{"verdict: {residual_mads: 0}", "verdict.residual_mads: must be above 0"},
		{"verdict: {min_ranks: 2}", "verdict.min_ranks: must be at least 3"},
		{"verdict: {min_ranks: 3}", ""},
		{"verdict: {temperature_limit_celsius: 0}", "verdict.temperature_limit_celsius: must be above 0"},
		{"nodes: {url: remediator}", "nodes.url: must begin with http:// or https://"},
		{"nodes: {stale_intervals: 0}", "nodes.stale_intervals: must be 1 to 1000"},
		{"nodes: {interval: -1s}", "nodes.interval: must be positive"},
		{"store: {url: 'http://u:p@h'}", "store.url: must not hold a user name or password"},
		{"store: {freshness: 0s}", "store.freshness: must be positive"},
		{"store: {timeout: 0s}", "store.timeout: must be positive"},
		{"store: {sigv4: {access_key: x}}", "SigV4 config"},
		{"remote_write: {url: 'http://h'}", "remote_write.spool.path: must be set"},
		{"push_interval: 0s", "push_interval: must be positive"},
	}
	for _, test := range tests {
		c := DefaultConfig()
		content := test.yaml
		if !strings.HasPrefix(content, "cluster:") {
			content = "cluster: c\n" + content
		}
		err := strictyaml.Decode([]byte(content), &c)
		if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want an error with %q", test.yaml, err, test.want)
		}
	}
}

func TestStaleAfterFollowsTheInterval(t *testing.T) {
	if got := (NodesConfig{Interval: 5 * time.Second, StaleIntervals: 6}).StaleAfter(); got != 30*time.Second {
		t.Errorf("StaleAfter() = %s, want 30s", got)
	}
}
