package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/evenkeel/evenkeel/internal/sim/hyperpod"
	"github.com/evenkeel/evenkeel/remediate/incident"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// asDaemon makes the test binary run as the daemon itself: the tests speak to
// real processes without building a second binary.
const asDaemon = "EVENKEEL_TEST_RUN_AS_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

const (
	nodeA    = "ip-10-1-0-1"
	nodeB    = "ip-10-1-0-2"
	access   = "AKIDEXAMPLE"
	secret   = "secret"
	patience = 60 * time.Second // for anything that takes milliseconds on an idle machine
)

// daemon gives the command that runs the daemon with the arguments.
func daemon(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = []string{
		asDaemon + "=1", "PATH=" + os.Getenv("PATH"),
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"AWS_ACCESS_KEY_ID=" + access, "AWS_SECRET_ACCESS_KEY=" + secret,
	}
	return cmd
}

// quick is hands-off.yaml at a pace for tests.
func quick(t *testing.T) *policy.Policy {
	t.Helper()
	p, err := policy.Shipped(policy.NameHandsOff)
	if err != nil {
		t.Fatal(err)
	}
	p.Timing.Poll = 100 * time.Millisecond
	p.Timing.HealthyFor = 200 * time.Millisecond
	p.Timing.RetryAfter = 200 * time.Millisecond
	p.Timing.CommonCauseWait = 200 * time.Millisecond
	return &p
}

// TestOneNodeIsReplacedOnce goes through the whole of it with a real process,
// mutual TLS, a scheduler behind a program, and the SageMaker API.
func TestOneNodeIsReplacedOnce(t *testing.T) {
	s := newSite(t, quick(t))
	s.start(t)
	const instance = "i-0aaaaaaaaaaaaaaa1"
	if status := s.report(t, nodeB, sick(nodeA, instance, "boot-1", 1)); status != http.StatusForbidden {
		t.Errorf("report of node a by node b = %d, want 403", status)
	}
	if got := s.incidents(t); len(got) != 0 {
		t.Fatalf("a refused report opened %v", got)
	}
	if status := s.report(t, nodeA, sick(nodeA, instance, "boot-1", 1)); status != http.StatusNoContent {
		t.Fatalf("report of node a by node a = %d, want 204", status)
	}

	var replacement hyperpod.Instance
	select {
	case replacement = <-s.replaced:
	case <-time.After(patience):
		t.Fatalf("nothing was replaced; incidents: %+v", s.incidents(t))
	}
	s.report(t, nodeA, well(nodeA, replacement.ID, "boot-2", 2))
	var closed incident.Incident
	eventually(t, "the incident is closed", func() bool {
		all := s.incidents(t)
		if len(all) == 1 {
			closed = all[0]
		}
		return len(all) == 1 && !closed.Open()
	})
	if closed.Outcome != incident.Repaired || closed.Node != nodeA || !closed.Simulated {
		t.Errorf("incident = %s on %s (%s), simulated %v, want %s on %s, simulated", closed.Outcome, closed.Node, closed.OutcomeReason, closed.Simulated, incident.Repaired, nodeA)
	}
	if got := s.replaceCalls(); got != 1 {
		t.Errorf("%d calls to replace, want 1", got)
	}
	calls, err := os.ReadFile(filepath.Join(s.dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("isolate "+nodeA+"\nunisolate "+nodeA+"\n", string(calls)); diff != "" {
		t.Errorf("what the scheduler was told (-want +got):\n%s", diff)
	}
	_, metrics := s.call(t, "", http.MethodGet, "/metrics", "")
	for _, want := range []string{
		`evenkeel_remediator_incidents_total{cluster="hp",outcome="repaired"} 1`,
		`evenkeel_remediator_duplicate_actions_total{cluster="hp"} 0`,
		`evenkeel_remediator_nodes{cluster="hp",state="ok"} 1`,
		`evenkeel_remediator_nodes{cluster="hp",state="unknown"} 1`,
		`evenkeel_remediator_source_up{cluster="hp",source="orchestrator"} 1`,
		`evenkeel_remediator_source_up{cluster="hp",source="hyperpod"} 1`,
		`evenkeel_remediator_report_refusals_total{cluster="hp",reason="identity"} 1`,
		`evenkeel_remediator_kill_switch{cluster="hp"} 0`,
	} {
		if !strings.Contains(string(metrics), want+"\n") {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if status := s.end(t, syscall.SIGTERM); status != 0 {
		t.Errorf("exit status after SIGTERM = %d, want 0", status)
	}
}

// TestDefaultPolicyTouchesNothing sends the same fault to a remediator without
// a policy file.
func TestDefaultPolicyTouchesNothing(t *testing.T) {
	s := newSite(t, nil)
	s.start(t)
	s.report(t, nodeA, sick(nodeA, "i-0aaaaaaaaaaaaaaa1", "boot-1", 1))
	eventually(t, "an incident is open and held", func() bool {
		all := s.incidents(t)
		return len(all) == 1 && len(all[0].Held()) > 0
	})
	if got := s.replaceCalls(); got != 0 {
		t.Errorf("%d calls to replace, want none", got)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "calls")); err == nil {
		t.Error("the scheduler was told something, want nothing")
	}
}

// TestKillSwitchOutlivesAKill holds a fault back by the kill switch, across a
// kill -9, until it is taken off.
func TestKillSwitchOutlivesAKill(t *testing.T) {
	s := newSite(t, quick(t))
	s.start(t)
	if status, body := s.call(t, "operator", http.MethodPut, "/v1/kill-switch", `{"reason":"fabric maintenance"}`); status != http.StatusOK {
		t.Fatalf("PUT /v1/kill-switch = %d %s", status, body)
	}
	if status := s.end(t, syscall.SIGKILL); status != -1 {
		t.Fatalf("exit status after SIGKILL = %d, want none", status)
	}
	s.start(t)
	var k incident.KillSwitch
	_, body := s.call(t, "collector", http.MethodGet, "/v1/kill-switch", "")
	if err := json.Unmarshal(body, &k); err != nil || !k.On || k.Reason != "fabric maintenance" || k.By != "operator" {
		t.Fatalf("kill switch after a restart = %s, want it on, by the operator, with its reason", body)
	}
	s.report(t, nodeA, sick(nodeA, "i-0aaaaaaaaaaaaaaa1", "boot-1", 1))
	eventually(t, "the kill switch holds the incident", func() bool {
		all := s.incidents(t)
		return len(all) == 1 && len(all[0].Held()) > 0 && all[0].Held()[0].Guard == "kill_switch"
	})
	if got := s.replaceCalls(); got != 0 {
		t.Errorf("%d calls to replace under the kill switch, want none", got)
	}
	s.call(t, "operator", http.MethodDelete, "/v1/kill-switch", "")
	select {
	case <-s.replaced:
	case <-time.After(patience):
		t.Error("nothing was replaced after the kill switch was taken off")
	}
}

// TestOneRemediatorPerJournal starts a second process on the same state.
func TestOneRemediatorPerJournal(t *testing.T) {
	s := newSite(t, nil)
	s.start(t)
	output, err := daemon(t, s.args(t)...).CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 || !strings.Contains(string(output), "in use") {
		t.Errorf("a second remediator on the same journal ends with %v and\n%s\nwant exit status 1 and the reason", err, output)
	}
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	config := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return "--config.file=" + path
	}
	valid := config("valid.yaml", "cluster: hp\n")
	insecure := config("insecure.yaml", "cluster: hp\naccess: {insecure: true}\n")
	for _, test := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"help", []string{"--help"}, 0, "kill-switch"},
		{"version", []string{"--version"}, 0, "evenkeel-remediator, version"},
		{"unknown flag", []string{"--colour"}, 2, "try --help"},
		{"valid", []string{valid, "--config.check"}, 0, "version: observe-"},
		{"unknown key", []string{config("unknown.yaml", "cluster: hp\nclutser: hp\n"), "--config.check"}, 1, "clutser"},
		{"no file", []string{"--config.file=" + dir + "/missing.yaml"}, 1, "missing.yaml"},
		{"everyone trusted, everyone listened to", []string{insecure, "--path.state=" + dir, "--web.listen-address=:0"}, 1, "access.insecure: refused"},
		{"state folder that is a file", []string{insecure, "--path.state=" + dir + "/valid.yaml", "--web.listen-address=127.0.0.1:0"}, 1, "state folder"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := daemon(t, test.args...)
			output, _ := cmd.CombinedOutput() // the status is looked at below
			if got := cmd.ProcessState.ExitCode(); got != test.status || !strings.Contains(string(output), test.want) {
				t.Errorf("exit status %d and\n%s\nwant %d and %q", got, output, test.status, test.want)
			}
		})
	}
}

// TestCheckConfigPrintsAPolicy takes what is printed for a policy again.
func TestCheckConfigPrintsAPolicy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("cluster: hp\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := daemon(t, "--config.file="+path, "--config.check").Output()
	if err != nil {
		t.Fatal(err)
	}
	printed, err := policy.Decode(output)
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := policy.Shipped(policy.NameObserve)
	if err != nil {
		t.Fatal(err)
	}
	// An empty list and none are the same, in YAML and to a policy.
	encode := func(p policy.Policy) string {
		content, err := yaml.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	if diff := cmp.Diff(encode(shipped), encode(printed)); diff != "" {
		t.Errorf("policy (-in force +printed):\n%s", diff)
	}
}
