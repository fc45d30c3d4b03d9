package remotewrite

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// prometheusBinary is Debian's, unpacked by scripts/fetch-deb.sh.
const prometheusBinary = "../../.cache/deb/prometheus/usr/bin/prometheus"

func TestMain(m *testing.M) {
	// Nothing here may find credentials of the machine's own.
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// process is a child process and the end of what it logged.
type process struct {
	name string
	cmd  *exec.Cmd
	log  tail
	done chan struct{} // closed when it has ended
}

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	w.buf.Next(w.buf.Len() - min(w.buf.Len(), 64<<10))
	return len(p), nil
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func begin(t *testing.T, binary string, args ...string) *process {
	t.Helper()
	p := &process{name: filepath.Base(binary), cmd: exec.Command(binary, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended shows in ProcessState
		close(p.done)
	}()
	t.Cleanup(func() {
		p.end(t, syscall.SIGKILL)
		if t.Failed() {
			t.Logf("%s ended with %v, having logged:\n%s", p.name, p.cmd.ProcessState, p.log.String())
		}
	})
	return p
}

// end signals the process and waits for its end.
func (p *process) end(t *testing.T, with syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(with); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s did not end within 30 s of %v", p.name, with)
	}
}

// freeAddress is a loopback address on which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal("the test was stopped")
	}
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, limit time.Duration, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		wait(t, 20*time.Millisecond)
	}
}

func get(url string) (status int, body string) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(content)
}

// receiver is a Prometheus that takes remote write.
type receiver struct {
	url     string
	address string
	dir     string
	*process
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	if _, err := os.Stat(prometheusBinary); err != nil {
		t.Skipf("no Prometheus to send to: run scripts/fetch-deb.sh prometheus (%v)", err)
	}
	r := &receiver{address: freeAddress(t), dir: t.TempDir()}
	r.url = "http://" + r.address
	if err := os.WriteFile(filepath.Join(r.dir, "prometheus.yml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.start(t)
	return r
}

func (r *receiver) start(t *testing.T) {
	t.Helper()
	r.process = begin(t, prometheusBinary,
		"--config.file="+filepath.Join(r.dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(r.dir, "data"),
		"--web.listen-address="+r.address, "--web.enable-remote-write-receiver", "--log.level=warn")
	eventually(t, "Prometheus is ready", 30*time.Second, func() bool {
		status, _ := get(r.url + "/-/ready")
		return status == http.StatusOK
	})
}

// agentProcess is a real agent with simulated devices and kernel log.
type agentProcess struct {
	binary, dir, address string
	*process
}

const interval = 250 * time.Millisecond

func newAgent(t *testing.T, storeURL string) *agentProcess {
	t.Helper()
	a := &agentProcess{binary: filepath.Join(t.TempDir(), "evenkeel-agent"), dir: t.TempDir(), address: freeAddress(t)}
	build := exec.Command("go", "build", "-o", a.binary, "../../cmd/evenkeel-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	var gpus []string
	for i := range 8 {
		gpus = append(gpus, fmt.Sprintf(`{"index":%d,"uuid":"GPU-%d","pci":"0000:%02x:00","model":"NVIDIA H200","temperature_celsius":45,`+
			`"slowdown_temperature_celsius":87,"power_watts":600,"sm_clock_hertz":1980000000,"max_sm_clock_hertz":1980000000,`+
			`"utilization_ratio":0.97,"memory_used_bytes":1,"memory_total_bytes":2,"ecc_double_bit_total":0}`, i, i, 0x53+i))
	}
	for name, content := range map[string]string{
		"agent.yaml": fmt.Sprintf("cluster: c1\nnode: n1\nmetrics: {interval: %s}\nremote_write: {url: '%s', timeout: 2s}\n", interval, storeURL),
		"devices":    `{"gpus":[` + strings.Join(gpus, ",") + `]}`,
		"kmsg":       "", "boot": "boot-1", "instance": "i-1",
	} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.start(t)
	return a
}

func (a *agentProcess) start(t *testing.T) {
	t.Helper()
	file := func(name string) string { return filepath.Join(a.dir, name) }
	a.process = begin(t, a.binary,
		"--config.file="+file("agent.yaml"), "--path.state="+file("state"), "--path.kmsg="+file("kmsg"), "--path.devices="+file("devices"),
		"--path.boot-id="+file("boot"), "--path.instance-id="+file("instance"), "--web.listen-address="+a.address)
	eventually(t, "the agent serves metrics", 30*time.Second, func() bool {
		status, _ := get("http://" + a.address + "/metrics")
		return status == http.StatusOK
	})
}

// metric reads one of the agent's own metrics from its page; false if it is not there.
func (a *agentProcess) metric(name string) (value float64, found bool) {
	_, body := get("http://" + a.address + "/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name); ok && strings.HasPrefix(rest, "{") {
			_, err := fmt.Sscan(rest[strings.LastIndex(rest, "}")+1:], &value)
			return value, err == nil
		}
	}
	return 0, false
}
