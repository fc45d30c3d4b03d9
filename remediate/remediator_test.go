package remediate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/incident"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// running is a remediator of this process.
type running struct {
	*Remediator
	stop  context.CancelFunc
	ended chan error
}

// run starts a remediator; it ends with the test if not before.
func run(t *testing.T, stateDir string, p policy.Policy, change func(*Config)) *running {
	t.Helper()
	c := DefaultConfig()
	c.Cluster, c.Access.Insecure = "hp", true
	change(&c)
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	r, err := New(t.Context(), Options{Config: c, Policy: p, StateDir: stateDir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	run := &running{Remediator: r, stop: stop, ended: make(chan error, 1)}
	go func() { run.ended <- r.Run(ctx) }()
	t.Cleanup(func() { run.end(t) })
	return run
}

// end stops the remediator; more than once is as good as once.
func (r *running) end(t *testing.T) {
	t.Helper()
	if r.stop == nil {
		return
	}
	r.stop()
	r.stop = nil
	if err := <-r.ended; err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
}

func (r *running) call(method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func (r *running) report(t *testing.T, report *fault.NodeReport) {
	t.Helper()
	body, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := r.call(http.MethodPost, "/v1/reports", string(body)); status != http.StatusNoContent {
		t.Fatalf("POST /v1/reports = %d %s", status, answer)
	}
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	enough := time.After(time.Minute)
	for !yes() {
		select {
		case <-again.C:
		case <-enough:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// TestWakeAndAlertsAndMetrics follows an alert from Alertmanager to /v1/nodes,
// where only the wake-up can have brought it, and the metrics to the store.
func TestWakeAndAlertsAndMetrics(t *testing.T) {
	firing := make(chan string, 1)
	firing <- `[]`
	alerts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer := <-firing
		firing <- answer
		_, _ = io.WriteString(w, answer)
	}))
	defer alerts.Close()
	pushed := make(chan string, 1)
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case pushed <- r.Header.Get("Content-Type"):
		default:
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer store.Close()

	r := run(t, t.TempDir(), mustShip(t, policy.NameObserve), func(c *Config) {
		c.Alertmanager.URL = alerts.URL
		c.Alertmanager.Interval = time.Hour // no second poll but by a wake-up
		c.RemoteWrite.URL = store.URL
	})
	r.report(t, heard("n1", 0).Report)
	eventually(t, "Alertmanager was polled once", func() bool {
		return testutil.ToFloat64(r.sources.up.WithLabelValues(sourceAlertmanager)) == 1
	})
	<-firing
	firing <- `[{"labels":{"alertname":"GPUHot","node":"n1"},"status":{"state":"active"}}]`
	if status, _ := r.call(http.MethodPost, "/v1/wake", "whatever"); status != http.StatusAccepted {
		t.Fatalf("POST /v1/wake = %d, want 202", status)
	}
	eventually(t, "the alert shows at its node", func() bool {
		var list fault.NodeList
		_, body := r.call(http.MethodGet, "/v1/nodes", "")
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			t.Fatal(err)
		}
		return len(list.Nodes) == 1 && len(list.Nodes[0].Alerts) == 1 && list.Nodes[0].Alerts[0] == "GPUHot"
	})
	eventually(t, "it is ready", func() bool { status, _ := r.call(http.MethodGet, "/-/ready", ""); return status == http.StatusOK })
	if got := <-pushed; got != "application/x-protobuf" {
		t.Errorf("the store got %q, want application/x-protobuf", got)
	}
	problems, err := testutil.GatherAndLint(r.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "evenkeel_") {
			t.Errorf("metric %s: %s", p.Metric, p.Text)
		}
	}
}

// TestColdStartForgetsVerdicts restarts a remediator that held a finding. The
// incident is remembered; the finding is not, until the node says so again.
func TestColdStartForgetsVerdicts(t *testing.T) {
	dir := t.TempDir()
	handsOff := mustShip(t, policy.NameHandsOff)
	r := run(t, dir, handsOff, func(*Config) {})
	sick := heard("n1", 0, offTheBus("n1")).Report
	sick.Sequence = 1
	r.report(t, sick)
	incidents := func(r *running) (all []incident.Incident) {
		var list struct{ Incidents []incident.Incident }
		_, body := r.call(http.MethodGet, "/v1/incidents", "")
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			t.Fatal(err)
		}
		return list.Incidents
	}
	eventually(t, "an incident is open", func() bool { return len(incidents(r)) == 1 })
	r.end(t)

	r = run(t, dir, handsOff, func(*Config) {})
	eventually(t, "the facts were judged", func() bool { return r.looked.Load() })
	if _, body := r.call(http.MethodGet, "/v1/nodes", ""); !strings.Contains(body, `"nodes":[]`) {
		t.Errorf("GET /v1/nodes after a restart = %s, want no node", body)
	}
	eventually(t, "the incident waits for the node to speak", func() bool {
		all := incidents(r)
		return len(all) == 1 && all[0].Open() && len(all[0].Held()) > 0 && len(all[0].Steps) == 0
	})
	// The same report again: the position of before the restart is not held against it.
	r.report(t, sick)
}

// BenchmarkLook judges a steady fleet once.
func BenchmarkLook(b *testing.B) {
	for _, nodes := range []int{2048, 16384} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			p, err := policy.Shipped(policy.NameObserve)
			if err != nil {
				b.Fatal(err)
			}
			c := DefaultConfig()
			c.Cluster = "hp"
			r, err := New(b.Context(), Options{Config: c, Policy: p, StateDir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			all := make([]incident.NodeView, nodes)
			for i := range nodes {
				report := heard(fmt.Sprintf("ip-10-1-%d-%d", i/256, i%256), 0).Report
				all[i] = incident.NodeView{Node: report.Node, Responding: incident.RespondingYes}
				report.Jobs = make([]fault.Process, 8)
				if err := r.store.Accept(report); err != nil {
					b.Fatal(err)
				}
			}
			r.views.set(time.Now(), all)
			b.ReportAllocs()
			for b.Loop() {
				r.look(b.Context())
			}
		})
	}
}
