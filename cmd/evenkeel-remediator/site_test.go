package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/sim/hyperpod"
	"github.com/evenkeel/evenkeel/internal/sim/pki"
	"github.com/evenkeel/evenkeel/remediate/incident"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// site is everything around a remediator: certificates, a HyperPod cluster, a
// scheduler behind a shell script, and configuration files.
type site struct {
	dir       string
	authority *pki.Authority
	provider  *hyperpod.Server
	replaced  chan hyperpod.Instance
	clients   map[string]*http.Client

	process *exec.Cmd
	url     string
	logged  chan struct{} // closed when the log has ended
	logMu   sync.Mutex
	log     bytes.Buffer
}

// scheduler answers the operations that these tests need and keeps a note of
// each request that changes anything.
const scheduler = `
request=$(cat)
field() { printf '%s' "$request" | sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'; }
view() {
  key=$(cat "$1/isolated-$2" 2>/dev/null)
  isolated=false; [ -n "$key" ] && isolated=true
  printf '{"node":"%s","responding":"yes","isolated":%s,"isolation_key":"%s","idle":true}' "$2" "$isolated" "$key"
}
node=$(field node)
case $(field operation) in
  view) printf '{"schema":1,"outcome":"done","node":%s}' "$(view "$1" "$node")" ;;
  views) printf '{"schema":1,"outcome":"done","nodes":[%s,%s]}' "$(view "$1" ip-10-1-0-1)" "$(view "$1" ip-10-1-0-2)" ;;
  isolate) field key >"$1/isolated-$node"; echo "isolate $node" >>"$1/calls"; echo '{"schema":1,"outcome":"done"}' ;;
  unisolate) rm -f "$1/isolated-$node"; echo "unisolate $node" >>"$1/calls"; echo '{"schema":1,"outcome":"done"}' ;;
  *) echo '{"schema":1,"outcome":"not_found"}' ;;
esac
`

// newSite prepares everything but starts no daemon. An empty policy leaves the
// default in force.
func newSite(t testing.TB, p *policy.Policy) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), replaced: make(chan hyperpod.Instance, 8), clients: make(map[string]*http.Client)}
	var err error
	if s.authority, err = pki.New(filepath.Join(s.dir, "pki")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", nodeA, nodeB, "operator", "collector"} {
		s.client(t, name)
	}
	s.provider, err = hyperpod.New(hyperpod.Options{
		Cluster: "hp", Region: "us-west-2", AccessKey: access, SecretKey: secret,
		Nodes:        []hyperpod.Node{{IP: "10.1.0.1", InstanceID: "i-0aaaaaaaaaaaaaaa1"}, {IP: "10.1.0.2", InstanceID: "i-0aaaaaaaaaaaaaaa2"}},
		ReplaceTakes: 300 * time.Millisecond,
		OnReplaced:   func(_, replacement hyperpod.Instance) { s.replaced <- replacement },
	})
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := s.provider.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.provider.Close() })

	s.write(t, "scheduler.sh", scheduler)
	policyFile := ""
	if p != nil {
		content, err := yaml.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		s.write(t, "policy.yaml", string(content))
		policyFile = "policy.yaml"
	}
	s.write(t, "remediator.yaml", fmt.Sprintf(`
cluster: hp
policy_file: %q
access: {roles: {read: [collector], wake: [alertmanager], admin: [operator]}}
hyperpod: {cluster_name: hp, region: us-west-2, endpoint: %q}
orchestrator: {command: {program: [/bin/sh, %q, %q], endpoint: "http://127.0.0.1:1", timeout: 30s}}
`, policyFile, endpoint, filepath.Join(s.dir, "scheduler.sh"), s.dir))
	return s
}

// client makes a client that proves the name; the empty name has no certificate.
func (s *site) client(t testing.TB, name string) {
	t.Helper()
	var pair pki.Pair
	var err error
	if name != "" {
		if pair, err = s.authority.Client(name); err != nil {
			t.Fatal(err)
		}
	}
	c, err := s.authority.ClientTLS(pair)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: c}
	t.Cleanup(transport.CloseIdleConnections)
	s.clients[name] = &http.Client{Transport: transport, Timeout: patience}
}

func (s *site) write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *site) args(t testing.TB) []string {
	t.Helper()
	server, err := s.authority.Server("remediator")
	if err != nil {
		t.Fatal(err)
	}
	web, err := s.authority.WebConfig("remediator", server)
	if err != nil {
		t.Fatal(err)
	}
	return []string{
		"--config.file=" + filepath.Join(s.dir, "remediator.yaml"), "--path.state=" + filepath.Join(s.dir, "state"),
		"--web.listen-address=127.0.0.1:0", "--web.config.file=" + web,
	}
}

// start runs the daemon and waits until it listens.
func (s *site) start(t testing.TB) {
	t.Helper()
	s.process = daemon(t, s.args(t)...)
	stderr, err := s.process.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	s.logged = make(chan struct{})
	go func() {
		defer close(s.logged)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			s.logMu.Lock()
			s.log.WriteString(lines.Text() + "\n")
			s.logMu.Unlock()
			if _, rest, ok := strings.Cut(lines.Text(), `msg="Listening on" address=`); ok {
				address <- strings.Fields(rest)[0]
			}
		}
	}()
	t.Cleanup(func() {
		if s.process.ProcessState == nil {
			_ = s.process.Process.Kill()
			<-s.logged
			_ = s.process.Wait()
		}
		if t.Failed() {
			s.logMu.Lock()
			t.Logf("log of the daemon:\n%s", s.log.String())
			s.logMu.Unlock()
		}
	})
	select {
	case a := <-address:
		s.url = "https://" + a
	case <-s.logged:
		t.Fatal("the daemon ended before it listened")
	case <-time.After(patience):
		t.Fatal("the daemon does not listen")
	}
	eventually(t, "the daemon is ready", func() bool {
		status, _ := s.call(t, "", http.MethodGet, "/-/ready", "")
		return status == http.StatusOK
	})
}

// end sends a signal and gives the exit status, -1 for a process that was killed.
func (s *site) end(t *testing.T, signal syscall.Signal) int {
	t.Helper()
	if err := s.process.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.logged:
	case <-time.After(patience):
		t.Fatalf("the daemon goes on after %s", signal)
	}
	_ = s.process.Wait() // the status is what is asked for
	return s.process.ProcessState.ExitCode()
}

func (s *site) call(t testing.TB, caller, method, path, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.clients[caller].Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer
}

// report sends a report as the caller and gives the status of the answer.
func (s *site) report(t testing.TB, caller string, r fault.NodeReport) int {
	t.Helper()
	body, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	status, _ := s.call(t, caller, http.MethodPost, "/v1/reports", string(body))
	return status
}

func (s *site) incidents(t *testing.T) []incident.Incident {
	t.Helper()
	var list struct {
		Incidents []incident.Incident `json:"incidents"`
	}
	status, body := s.call(t, "collector", http.MethodGet, "/v1/incidents", "")
	if err := json.Unmarshal(body, &list); err != nil || status != http.StatusOK {
		t.Fatalf("GET /v1/incidents = %d %s, %v", status, body, err)
	}
	return list.Incidents
}

// replaceCalls counts what the provider was asked to replace.
func (s *site) replaceCalls() int {
	n := 0
	for _, c := range s.provider.Calls() {
		if c.Operation == "BatchReplaceClusterNodes" {
			n++
		}
	}
	return n
}

// eventually asks until the answer is yes.
func eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	enough := time.After(patience)
	for !yes() {
		select {
		case <-again.C:
		case <-enough:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// well is the report of a node without findings; sick has one GPU off the bus.
func well(node, instance, boot string, incarnation int64) fault.NodeReport {
	return fault.NodeReport{
		Schema: fault.ReportSchema, Cluster: "hp", Node: node, InstanceID: instance, BootID: boot, Incarnation: incarnation, Sequence: 1,
		SentAt: time.Now(), Simulated: true,
		Coverage: []fault.Coverage{{Source: "kernel", State: fault.CoverageOK}, {Source: "device", State: fault.CoverageOK}},
	}
}

func sick(node, instance, boot string, incarnation int64) fault.NodeReport {
	r := well(node, instance, boot, incarnation)
	subject := fault.Subject{Node: node, InstanceID: instance, Device: fault.DeviceGPU, PCI: "0000:53:00"}
	r.Findings = []fault.Finding{{
		ID: fault.NewID(fault.XidOffTheBus, subject, boot), Kind: fault.XidOffTheBus, Subject: subject, State: fault.Bad,
		Severity: fault.Fatal, Action: fault.Reboot, BootID: boot, Simulated: true, First: time.Now(), Last: time.Now(), Count: 2,
		Evidence: []fault.Evidence{{Source: "kernel", Authority: fault.ByKernel, Time: time.Now(), BootID: boot, Text: "NVRM: Xid (PCI:0000:53:00): 79"}},
	}}
	return r
}
