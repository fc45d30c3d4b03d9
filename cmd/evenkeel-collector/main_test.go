package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/collector/api"
	"github.com/evenkeel/evenkeel/collector/correlate"
	"github.com/evenkeel/evenkeel/collector/expert"
	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/sim/engine"
	"github.com/evenkeel/evenkeel/internal/sim/pki"
)

// patience bounds every wait for something that takes milliseconds.
const patience = 20 * time.Second

// world is everything around the collector, and the collector itself as a
// process.
type world struct {
	t           *testing.T
	dir         string
	authority   *pki.Authority
	base        string
	engine      *engine.Server
	engineAt    string // address
	targetFile  string
	sick        atomic.Bool // rank 3's GPU has a finding
	process     *exec.Cmd
	stderr      *bytes.Buffer
	everyone    *http.Client // without certificate
	nodeListGot atomic.Int64
}

func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	authority, err := pki.New(filepath.Join(dir, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, authority: authority, stderr: &bytes.Buffer{}, targetFile: filepath.Join(dir, "targets.json")}
	w.everyone = w.client("")

	w.engine = engine.New(engine.Options{})
	engines := httptest.NewServer(w.engine.Handler())
	t.Cleanup(engines.Close)
	w.engineAt = engines.Listener.Addr().String()
	w.write(w.targetFile, fmt.Sprintf(`[{"targets":[%q],"labels":{"model":"m","replica":"r0"}}]`, w.engineAt))
	return w
}

func (w *world) write(path, content string) {
	w.t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// client gives a client that shows the named certificate.
func (w *world) client(name string) *http.Client {
	w.t.Helper()
	var pair pki.Pair
	if name != "" {
		pair = must(w.authority.Client(name))(w.t)
	}
	config := must(w.authority.ClientTLS(pair))(w.t)
	transport := &http.Transport{TLSClientConfig: config}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// remediator serves /v1/nodes to the collector only.
func (w *world) remediator() string {
	w.t.Helper()
	server := must(w.authority.Server("remediator"))(w.t)
	config := must(w.authority.ClientTLS(server))(w.t)
	config.ClientCAs = config.RootCAs
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].DNSNames[0] != "collector" {
			http.Error(rw, "who are you", http.StatusForbidden)
			return
		}
		w.nodeListGot.Add(1)
		n := fault.NodeStatus{Node: "n0", State: fault.OK, ReportAgeSeconds: 0.1}
		for rank := range 4 {
			n.Jobs = append(n.Jobs, fault.Process{Job: "42", Rank: new(rank), DeviceUUID: fmt.Sprintf("GPU-%d", rank), DeviceIndex: rank})
		}
		if w.sick.Load() {
			n.State = fault.Bad
			n.Findings = []fault.Finding{{Kind: fault.GPUThermal, State: fault.Bad, Severity: fault.Warning, Subject: fault.Subject{Node: "n0", Device: fault.DeviceGPU, UUID: "GPU-3"}}}
		}
		json.NewEncoder(rw).Encode(fault.NodeList{Cluster: "c", Nodes: []fault.NodeStatus{n}})
	}))
	s.TLS = config
	s.TLS.ClientAuth = tls.VerifyClientCertIfGiven
	s.StartTLS()
	w.t.Cleanup(s.Close)
	return "https://127.0.0.1:" + fmt.Sprint(s.Listener.Addr().(*net.TCPAddr).Port)
}

// start builds and starts the collector.
func (w *world) start(remediator string) {
	w.t.Helper()
	binary := filepath.Join(w.dir, "evenkeel-collector")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		w.t.Fatalf("build: %v\n%s", err, out)
	}
	own := must(w.authority.Client("collector"))(w.t)
	config := filepath.Join(w.dir, "collector.yaml")
	w.write(config, fmt.Sprintf(`cluster: c
access: {roles: {push: [engine], read: [operator]}}
engines: {target_file: %s, refresh_interval: 100ms, scrape_interval: 200ms, scrape_timeout: 200ms}
kv_cache: {window: 1m}
nodes: {url: %s/v1/nodes, interval: 100ms, tls: {ca_file: %s, cert_file: %s, key_file: %s}}
`, w.targetFile, remediator, w.authority.CAFile(), own.CertFile, own.KeyFile))
	webConfig := must(w.authority.WebConfig("collector", must(w.authority.Server("collector"))(w.t)))(w.t)
	address := freeAddress(w.t)
	w.base = "https://" + address
	w.process = exec.Command(binary, "--config.file="+config, "--web.config.file="+webConfig, "--web.listen-address="+address)
	w.process.Stderr = w.stderr
	w.process.Env = append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	if err := w.process.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if w.process.ProcessState == nil {
			w.process.Process.Kill()
			w.process.Wait()
		}
		if w.t.Failed() {
			w.t.Logf("the collector said:\n%s", w.stderr)
		}
	})
	w.until("ready", func() bool {
		code, _ := w.get(w.everyone, "/-/ready")
		return code == http.StatusOK
	})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer l.Close()
	return l.Addr().String()
}

func (w *world) get(client *http.Client, path string) (int, string) {
	response, err := client.Get(w.base + path)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(body)
}

// until waits for a condition.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			_, metrics := w.get(w.everyone, "/metrics")
			w.t.Fatalf("waited %s in vain for: %s\n%s", patience, what, metrics)
		case <-poll.C:
		}
	}
}

func (w *world) exports(series string) func() bool {
	return func() bool {
		_, body := w.get(w.everyone, "/metrics")
		return strings.Contains(body, series)
	}
}

// push posts a window in which rank 3 takes so many seconds for so many tokens.
func (w *world) push(client *http.Client, tokens int64, seconds float64) int {
	w.t.Helper()
	l := expert.Load{
		Schema: 1, Cluster: "c", Model: "m", Replica: "r0", Job: "42", WindowSeconds: 10, Generation: 1, TopK: 1,
		Counts: expert.Counts{{1000, 1000, 1000, tokens}}, Placement: expert.Placement{{{0}, {1}, {2}, {3}}},
	}
	for rank := range 4 {
		l.Ranks = append(l.Ranks, expert.Rank{Rank: rank, Node: "n0", DeviceUUID: fmt.Sprintf("GPU-%d", rank), Seconds: 1})
	}
	l.Ranks[3].Seconds = seconds
	body := must(json.Marshal(l))(w.t)
	response, err := client.Post(w.base+"/v1/expert-load", "application/json", bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

func TestCollector(t *testing.T) {
	w := newWorld(t)
	w.start(w.remediator())
	pusher, reader := w.client("engine"), w.client("operator")
	w.until("node health", func() bool { return w.nodeListGot.Load() > 0 })

	// Who may do what.
	if got := w.push(w.everyone, 1000, 1); got != http.StatusUnauthorized {
		t.Errorf("a post without a certificate = %d, want 401", got)
	}
	if got := w.push(reader, 1000, 1); got != http.StatusForbidden {
		t.Errorf("a post of the operator = %d, want 403", got)
	}
	if code, _ := w.get(pusher, "/v1/replicas"); code != http.StatusForbidden {
		t.Errorf("a read of the engine = %d, want 403", code)
	}

	// Busy, and sick.
	if got := w.push(pusher, 2000, 2); got != http.StatusNoContent {
		t.Fatalf("post = %d, want 204", got)
	}
	verdict := func(word correlate.Word) string {
		return fmt.Sprintf(`evenkeel_rank_verdict{cluster="c",model="m",node="n0",rank="3",replica="r0",verdict=%q} 1`, word)
	}
	w.until("rank 3 busy", w.exports(verdict(correlate.Busy)))
	w.push(pusher, 1000, 2)
	w.until("rank 3 slow without a reason", w.exports(verdict(correlate.Unknown)))
	w.sick.Store(true)
	w.until("rank 3 sick", func() bool {
		w.push(pusher, 1000, 2)
		return w.exports(verdict(correlate.Sick))()
	})

	// The ledger says what the engine served.
	w.until("a first scrape", w.exports(fmt.Sprintf(`evenkeel_collector_scrape_up{cluster="c",target=%q} 1`, w.engineAt)))
	w.engine.Step(30 * time.Second)
	served := w.engine.Tokens()
	hits := fmt.Sprintf("evenkeel_kv_cache_hit_tokens_total{cluster=\"c\",model=\"m\",replica=\"r0\",tier=\"device\"} %d\n", served.Device)
	w.until("the tokens served", w.exports(hits))
	w.engine.Restart()
	w.engine.Step(30 * time.Second)
	again := w.engine.Tokens()
	w.until("the tokens served after a restart", w.exports(fmt.Sprintf("evenkeel_kv_cache_hit_tokens_total{cluster=\"c\",model=\"m\",replica=\"r0\",tier=\"device\"} %d\n", served.Device+again.Device)))
	w.until("the restart", w.exports(`evenkeel_kv_cache_engine_restarts_total{cluster="c",model="m",replica="r0"} 1`))

	var list api.ReplicaList
	if code, body := w.get(reader, "/v1/replicas"); code != http.StatusOK || json.Unmarshal([]byte(body), &list) != nil {
		t.Fatalf("/v1/replicas = %d %s", code, body)
	}
	kv := list.Replicas[0].KVCache
	if kv == nil || kv.HitTokens != float64(served.Device+again.Device) || kv.GapTokens == nil || *kv.GapTokens != 0 || kv.Targets[0].Way != "prompt_tokens_by_source" {
		t.Errorf("KV cache = %+v, want %d hit tokens and no gap", kv, served.Device+again.Device)
	}

	// A broken target file is seen, and changes nothing else.
	w.write(w.targetFile, `[{"targets":`)
	w.until("the broken target file", w.exports(`evenkeel_collector_target_file_up{cluster="c"} 0`))
	if !w.exports(`evenkeel_collector_targets{cluster="c"} 1`)() {
		t.Error("a broken target file drops the targets")
	}
	w.write(w.targetFile, `[]`)
	w.until("no targets", w.exports(`evenkeel_collector_targets{cluster="c"} 0`))

	if err := w.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := w.process.Wait(); err != nil {
		t.Errorf("after SIGTERM the collector ends with %v, want success", err)
	}
}

// Wrong use is said in one line and with the right status.
func TestRefusesToStart(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "evenkeel-collector")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "collector.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return "--config.file=" + path
	}
	tests := []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"no configuration", nil, 2, "--config.file"},
		{"unknown flag", []string{"--confg.file=x"}, 2, "--help"},
		{"missing file", []string{"--config.file=/nonexistent"}, 1, "no such file"},
		{"unknown setting", []string{file("cluster: c\nengine: {}\n")}, 1, "field engine not found"},
		{"no cluster", []string{file("")}, 1, "cluster: "},
		{"insecure on every address", []string{file("cluster: c\naccess: {insecure: true}\n"), "--web.listen-address=:0"}, 1, "access.insecure: refused"},
	}
	for _, test := range tests {
		out, err := exec.Command(binary, test.args...).CombinedOutput()
		exit, ok := err.(*exec.ExitError)
		if !ok || exit.ExitCode() != test.status || !strings.Contains(string(out), test.want) {
			t.Errorf("%s: %v\n%s\nwant status %d and %q", test.name, err, out, test.status, test.want)
		}
	}
}
