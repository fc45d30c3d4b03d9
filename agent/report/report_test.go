package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// remediator is the other end, inside a synctest bubble: it answers by a
// function and keeps what it received.
type remediator struct {
	answer func(n int, r *fault.NodeReport) (status int, body string)
	delay  time.Duration

	mu       sync.Mutex
	inFlight int
	most     int
	reports  []*fault.NodeReport
	times    []time.Time
}

func (m *remediator) RoundTrip(req *http.Request) (*http.Response, error) {
	report, err := fault.DecodeReport(req.Body)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	n := len(m.reports)
	m.reports = append(m.reports, report)
	m.times = append(m.times, time.Now())
	m.inFlight++
	m.most = max(m.most, m.inFlight)
	m.mu.Unlock()
	defer func() { m.mu.Lock(); m.inFlight--; m.mu.Unlock() }()
	select {
	case <-time.After(m.delay):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	status, body := m.answer(n, report)
	if status == 0 {
		return nil, errors.New(body)
	}
	w := httptest.NewRecorder()
	w.WriteHeader(status)
	_, _ = w.WriteString(body)
	return w.Result(), nil
}

func (m *remediator) received() []*fault.NodeReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.reports)
}

func (m *remediator) at() []time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.times)
}

func (m *remediator) mostInFlight() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}

func accept(int, *fault.NodeReport) (int, string) { return http.StatusNoContent, "" }

// bench is a reporter at work in a bubble.
type bench struct {
	*Reporter
	remediator *remediator
	registry   *prometheus.Registry

	mu        sync.Mutex
	logs      strings.Builder
	state     State
	delivered []string
	adopted   []int64
}

func (b *bench) set(s State) {
	b.mu.Lock()
	b.state = s
	b.mu.Unlock()
	b.Changed()
}

// pass lets time pass, and everything that is due in it happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Write takes what the reporter logs.
func (b *bench) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.logs.Write(line)
}

func (b *bench) logged() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.logs.String()
}

func (b *bench) deliveries() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.delivered)
}

func (b *bench) adoptions() []int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.adopted)
}

const heartbeat = 5 * time.Second

// inBubble runs a reporter against a remediator and hands both to the test.
func inBubble(t *testing.T, m *remediator, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{remediator: m, registry: prometheus.NewRegistry()}
		b.Reporter = New(Options{
			URL: "https://remediator.test/", Client: &http.Client{Transport: m}, Heartbeat: heartbeat, Timeout: 2 * time.Second,
			Cluster: "c1", Node: "n1", BootID: "boot", Incarnation: 1000, AgentVersion: "1.2.3", CatalogueVersion: "v1",
			State:      func() State { b.mu.Lock(); defer b.mu.Unlock(); return b.state },
			Delivered:  func(ids []string) { b.mu.Lock(); defer b.mu.Unlock(); b.delivered = append(b.delivered, ids...) },
			Adopted:    func(n int64) { b.mu.Lock(); defer b.mu.Unlock(); b.adopted = append(b.adopted, n) },
			Registerer: b.registry, Logger: slog.New(slog.NewTextHandler(b, nil)),
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { b.Run(ctx) })
		synctest.Wait()
		test(b)
		cancel()
		running.Wait()
	})
}

func (b *bench) count(result string) float64 {
	return testutil.ToFloat64(b.sent.WithLabelValues(result))
}

func bad(id string) fault.Finding {
	return fault.Finding{ID: id, Kind: "nvidia.xid.79", State: fault.Bad, Action: fault.Replace, Subject: fault.Subject{Node: "n1"}}
}

func ended(id string) fault.Finding {
	f := bad(id)
	f.State, f.ClearedBy = fault.OK, &fault.Evidence{Source: "test"}
	return f
}

func TestReportsAtOnceOnChangeAndAsHeartbeat(t *testing.T) {
	m := &remediator{answer: accept}
	inBubble(t, m, func(b *bench) {
		if len(m.received()) != 1 {
			t.Fatalf("%d reports at the start, want 1", len(m.received()))
		}
		pass(time.Second)
		changed := time.Now()
		b.set(State{Findings: []fault.Finding{bad("a")}, Simulated: true, Jobs: []fault.Process{{Job: "42", PID: 1}}})
		synctest.Wait()
		if len(m.received()) != 2 || !m.at()[1].Equal(changed) {
			t.Fatalf("reports at %v, want one at the change, %v", m.at(), changed)
		}
		got := m.received()[1]
		if !got.Simulated || len(got.Findings) != 1 || len(got.Jobs) != 1 || got.AgentVersion != "1.2.3" {
			t.Errorf("report = %+v, want the whole state", got)
		}
		pass(time.Minute)
		for i := 2; i < len(m.at()); i++ {
			if gap := m.at()[i].Sub(m.at()[i-1]); gap > heartbeat || gap < heartbeat*9/10 {
				t.Errorf("gap before heartbeat %d = %v, want between 90 %% and all of %v", i, gap, heartbeat)
			}
		}
		for i, r := range m.received() {
			if want := (fault.Position{BootID: "boot", Incarnation: 1000, Sequence: uint64(i + 1)}); r.Position() != want {
				t.Errorf("position of report %d = %+v, want %+v", i, r.Position(), want)
			}
		}
		if got := b.count(resultAccepted); int(got) != len(m.received()) {
			t.Errorf("accepted = %v, want %d", got, len(m.received()))
		}
	})
}

func TestChangesDuringAReportGoOutTogether(t *testing.T) {
	m := &remediator{answer: accept, delay: time.Second}
	inBubble(t, m, func(b *bench) { // the first report is in flight
		for i := range 10 {
			b.set(State{Findings: []fault.Finding{bad(fmt.Sprint(i))}})
			pass(50 * time.Millisecond)
		}
		pass(2 * time.Second)
		if len(m.received()) != 2 || m.received()[1].Findings[0].ID != "9" {
			t.Errorf("%d reports, last %+v; want 2, the second with the last state", len(m.received()), m.received()[len(m.received())-1].Findings)
		}
		if m.mostInFlight() != 1 {
			t.Errorf("%d reports in flight at once, want 1", m.mostInFlight())
		}
	})
}

func TestFailedReportsAreRepeatedSoon(t *testing.T) {
	for name, answer := range map[string]func() (int, string){
		"no answer":      func() (int, string) { return 0, "connection refused" },
		"server trouble": func() (int, string) { return http.StatusServiceUnavailable, "" },
		"throttled":      func() (int, string) { return http.StatusTooManyRequests, "" },
	} {
		t.Run(name, func(t *testing.T) {
			m := &remediator{answer: func(n int, _ *fault.NodeReport) (int, string) {
				if n < 50 {
					return answer()
				}
				return http.StatusNoContent, ""
			}}
			inBubble(t, m, func(b *bench) {
				pass(5 * time.Minute)
				for i := 1; i <= 50; i++ {
					if gap := m.at()[i].Sub(m.at()[i-1]); gap > heartbeat {
						t.Errorf("gap before attempt %d = %v, want at most %v", i, gap, heartbeat)
					}
				}
				if gap := m.at()[1].Sub(m.at()[0]); gap > minBackoff {
					t.Errorf("first gap = %v, want at most %v", gap, minBackoff)
				}
				if b.count(resultError) != 50 || b.count(resultAccepted) == 0 {
					t.Errorf("errors = %v, accepted = %v; want 50 and more than none", b.count(resultError), b.count(resultAccepted))
				}
				if n := strings.Count(b.logged(), "\n"); n != 2 {
					t.Errorf("%d log lines, want one for the trouble and one for its end:\n%s", n, b.logged())
				}
			})
		})
	}
}

func TestNewsDuringAnOutageDoesNotHastenAttempts(t *testing.T) {
	m := &remediator{answer: func(int, *fault.NodeReport) (int, string) { return 503, "" }}
	inBubble(t, m, func(b *bench) {
		for range 1000 {
			b.Changed()
			pass(60 * time.Millisecond)
		}
		if len(m.received()) > 40 { // a minute at 2.5 to 5 s each, and the first few
			t.Errorf("%d attempts in a minute of changes, want the back-off kept", len(m.received()))
		}
	})
}

func TestHungRemediatorCostsOneTimeout(t *testing.T) {
	m := &remediator{answer: accept, delay: time.Hour}
	inBubble(t, m, func(b *bench) {
		pass(2*time.Second + minBackoff)
		if len(m.received()) != 2 || b.count(resultError) != 1 {
			t.Errorf("%d attempts, %v errors; want the second attempt after the timeout", len(m.received()), b.count(resultError))
		}
	})
}

func TestContinuesAboveWhatIsHeld(t *testing.T) {
	m := &remediator{}
	m.answer = func(_ int, r *fault.NodeReport) (int, string) {
		held := fault.Position{BootID: "other", Incarnation: 5000, Sequence: 7}
		if r.Position().After(held) {
			return http.StatusNoContent, ""
		}
		return http.StatusConflict, `{"error":"stale","held":{"boot_id":"other","incarnation":5000,"sequence":7}}`
	}
	inBubble(t, m, func(b *bench) {
		pass(minBackoff)
		if len(m.received()) != 2 || m.received()[1].Incarnation != 5001 || m.received()[1].Sequence != 1 {
			t.Fatalf("reports = %+v, want a second at incarnation 5001", m.received())
		}
		if !slices.Equal(b.adoptions(), []int64{5001}) || b.count(resultStale) != 1 || b.count(resultAccepted) != 1 {
			t.Errorf("adopted %v, stale %v, accepted %v", b.adoptions(), b.count(resultStale), b.count(resultAccepted))
		}
	})
}

func TestIncarnationIsNotTakenFromNonsense(t *testing.T) {
	for name, answer := range map[string]string{
		"not JSON":     "<html>",
		"lower":        `{"held":{"incarnation":999}}`,
		"no room":      fmt.Sprintf(`{"held":{"incarnation":%d}}`, int64(math.MaxInt64)),
		"not a number": `{"held":{"incarnation":"x"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			m := &remediator{answer: func(int, *fault.NodeReport) (int, string) { return http.StatusConflict, answer }}
			inBubble(t, m, func(b *bench) {
				pass(time.Minute)
				if len(b.adoptions()) > 0 || m.received()[len(m.received())-1].Incarnation != 1000 {
					t.Errorf("adopted %v", b.adoptions())
				}
				if len(m.received()) > 40 {
					t.Errorf("%d attempts in a minute, want the back-off kept", len(m.received()))
				}
			})
		})
	}
}

func TestRefusalIsLoggedAndTriedAgainByTheHeartbeat(t *testing.T) {
	m := &remediator{answer: func(int, *fault.NodeReport) (int, string) {
		return http.StatusForbidden, `{"error":"certificate is for n2, the report for n1"}`
	}}
	inBubble(t, m, func(b *bench) {
		pass(time.Minute)
		if n := len(m.received()); n < 12 || n > 14 {
			t.Errorf("%d attempts in a minute, want one per heartbeat", n)
		}
		if got := int(b.count(resultRefused)); got != len(m.received()) {
			t.Errorf("refused = %d, want %d", got, len(m.received()))
		}
		if n := strings.Count(b.logged(), "certificate is for n2"); n != 1 {
			t.Errorf("%d log lines with the reason, want 1:\n%s", n, b.logged())
		}
	})
}

// An ended finding may be forgotten only once the remediator has seen its end.
func TestEndedFindingsAreDeliveredByAnAcceptedReportOnly(t *testing.T) {
	var ok atomic.Bool
	m := &remediator{answer: func(int, *fault.NodeReport) (int, string) {
		if ok.Load() {
			return http.StatusNoContent, ""
		}
		return http.StatusInternalServerError, ""
	}}
	inBubble(t, m, func(b *bench) {
		b.set(State{Findings: []fault.Finding{bad("still"), ended("over")}})
		pass(time.Minute)
		if len(b.deliveries()) > 0 {
			t.Errorf("delivered %v before any report was accepted", b.deliveries())
		}
		ok.Store(true)
		pass(heartbeat)
		if diff := cmp.Diff([]string{"over"}, b.deliveries()[:1]); diff != "" || slices.Contains(b.deliveries(), "still") {
			t.Errorf("delivered %v, want only what ended", b.deliveries())
		}
	})
}

func TestNextIncarnation(t *testing.T) {
	now := time.Unix(0, 5000)
	for _, tc := range []struct{ last, want int64 }{{0, 5000}, {4999, 5000}, {5000, 5001}, {9000, 9001}} {
		if got, err := NextIncarnation(now, tc.last); err != nil || got != tc.want {
			t.Errorf("NextIncarnation(5000 ns, %d) = %d, %v, want %d", tc.last, got, err, tc.want)
		}
	}
	if _, err := NextIncarnation(now, math.MaxInt64); err == nil {
		t.Error("NextIncarnation above the highest = nil error")
	}
}

func TestMetricNames(t *testing.T) {
	inBubble(t, &remediator{answer: accept}, func(b *bench) {
		if problems, err := testutil.GatherAndLint(b.registry); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v, %v", problems, err)
		}
	})
}
