package remotewrite

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The short form of TestSoakDelivery, for every run of the tests.
func TestDelivery(t *testing.T) { testDelivery(t, 5*time.Second) }

// Every sample arrives through an outage of a minute and a kill -9.
func TestSoakDelivery(t *testing.T) {
	if os.Getenv("EVENKEEL_SOAK") == "" {
		t.Skip("takes more than a minute; set EVENKEEL_SOAK=1")
	}
	testDelivery(t, time.Minute)
}

// testDelivery lets a real agent send to a real Prometheus through a proxy that
// keeps account, loses every seventh acknowledgement, and sees the store stopped
// for the outage. In the middle of it the agent is killed and started again.
func testDelivery(t *testing.T, outage time.Duration) {
	prometheus := newReceiver(t)
	accounts, storeURL := newAccounts(t, prometheus.url)
	agent := newAgent(t, storeURL)
	begun := time.Now()
	wait(t, 2*time.Second)

	prometheus.end(t, syscall.SIGTERM)
	wait(t, outage/2)
	killed := time.Now()
	agent.end(t, syscall.SIGKILL)
	agent.start(t)
	restarted := time.Now()
	wait(t, outage/2)
	prometheus.start(t)
	recovered := time.Now()
	eventually(t, "the backlog is gone", time.Minute, func() bool {
		waiting, found := agent.metric("evenkeel_remote_write_spool_samples")
		return found && waiting == 0
	})
	t.Logf("backlog of %v sent within %v", outage, time.Since(recovered).Round(time.Millisecond))
	wait(t, 2*time.Second)
	for _, name := range []string{"evenkeel_remote_write_dropped_samples_total", "evenkeel_remote_write_spool_corruptions_total"} {
		if lost, found := agent.metric(name); !found || lost != 0 {
			t.Errorf("%s = %v, %v, want 0", name, lost, found)
		}
	}
	ended := time.Now()
	agent.end(t, syscall.SIGTERM)
	if !agent.cmd.ProcessState.Success() {
		t.Errorf("the agent ended with %v", agent.cmd.ProcessState)
	}

	accounts.mu.Lock()
	defer accounts.mu.Unlock()
	t.Logf("%d bodies, %d samples stored, %d attempts failed, %d acknowledgements lost, repeated: %d without and %d with acknowledgement",
		accounts.bodies, len(accounts.stored), accounts.failed, accounts.acksLost, accounts.repeatedUnsettled, accounts.repeatedSettled)
	if accounts.failed == 0 || accounts.acksLost == 0 {
		t.Error("the outage or the lost acknowledgements did not take place")
	}
	for _, d := range accounts.disorders {
		t.Error(d)
	}
	if accounts.repeatedUnsettled < accounts.acksLost-1 || accounts.repeatedUnsettled > accounts.acksLost {
		t.Errorf("%d bodies came again for %d lost acknowledgements", accounts.repeatedUnsettled, accounts.acksLost)
	}
	// A kill between an acknowledgement and the note of it repeats that body.
	if accounts.repeatedSettled > 1 {
		t.Errorf("%d bodies came again although they had been acknowledged, want at most the one of the kill", accounts.repeatedSettled)
	}
	checkComplete(t, accounts.stored, begun, killed)
	checkComplete(t, accounts.stored, restarted, ended)
	compareWithStore(t, prometheus.url, accounts.stored)
}

// checkComplete checks the life of one agent process. Its heartbeat tells when
// snapshots were taken: none may be missing. And each snapshot says how many
// samples were spooled before it: as many must have arrived.
func checkComplete(t *testing.T, stored map[sampleID]uint64, from, to time.Time) {
	t.Helper()
	heartbeats := make(map[int64]bool)
	counts := make(map[int64]float64)
	perTime := make(map[int64]int)
	for id, bits := range stored {
		// What a process did not begin itself lies before its first snapshot; the first
		// may have been taken before the test saw the process serve.
		if id.at < from.Add(-2*time.Second).UnixMilli() || id.at > to.UnixMilli() {
			continue
		}
		perTime[id.at]++
		switch name, _, _ := strings.Cut(id.series, "{"); name {
		case "evenkeel_agent_heartbeat_timestamp_seconds":
			heartbeats[id.at] = true
			if got := math.Float64frombits(bits); math.Abs(got-float64(id.at)/1000) > 0.0005 {
				t.Errorf("heartbeat at %d has the value %v: time and value do not belong together", id.at, got)
			}
		case "evenkeel_remote_write_samples_total":
			counts[id.at] = math.Float64frombits(bits)
		}
	}
	times := slices.Sorted(maps.Keys(heartbeats))
	if len(times) == 0 {
		t.Errorf("no heartbeat between %v and %v", from, to)
		return
	}
	// The counter begins at zero with the process: older times are not its own.
	begin := 0
	for i, at := range times {
		if counts[at] == 0 {
			begin = i
		}
	}
	times = times[begin:]
	arrived := 0
	for i, at := range times {
		if i > 0 && at-times[i-1] > 3*interval.Milliseconds() {
			t.Errorf("no heartbeat for %d ms before %d, want one every %v", at-times[i-1], at, interval)
		}
		if spooled := counts[at]; float64(arrived) < spooled {
			t.Errorf("at %d the agent had spooled %v samples, of which %d arrived", at, spooled, arrived)
		}
		arrived += perTime[at]
	}
	if last := times[len(times)-1]; to.UnixMilli()-last > 4*interval.Milliseconds() {
		t.Errorf("the last heartbeat is %d ms before the end, want at most a few intervals", to.UnixMilli()-last)
	}
	t.Logf("%d snapshots with %d samples, none missing", len(times), arrived)
}

// compareWithStore checks that the store holds what the accounts say it took.
func compareWithStore(t *testing.T, store string, stored map[sampleID]uint64) {
	t.Helper()
	query := url.Values{"query": {`{__name__=~".+"}[1h]`}}
	status, body := get(store + "/api/v1/query?" + query.Encode())
	if status != http.StatusOK {
		t.Fatalf("query: %d %s", status, body)
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	held := make(map[sampleID]bool)
	for _, series := range answer.Data.Result {
		name := seriesName(series.Metric)
		for _, v := range series.Values {
			id := sampleID{name, int64(math.Round(v[0].(float64) * 1000))}
			held[id] = true
			value, err := strconv.ParseFloat(v[1].(string), 64)
			want, known := stored[id]
			if err != nil || !known || math.Float64bits(value) != want && !math.IsNaN(value) {
				t.Errorf("the store holds %v = %v, want %v (sent: %v)", id, v[1], math.Float64frombits(want), known)
			}
		}
	}
	missing := 0
	for id, bits := range stored {
		if bits != staleNaN && !held[id] { // queries do not show the ends of series
			missing++
		}
	}
	if missing > 0 || len(held) == 0 {
		t.Errorf("%d of %d samples are not in the store, which holds %d", missing, len(stored), len(held))
	}
}

// seriesName is a series in the usual notation.
func seriesName(labels map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if name != "__name__" {
			parts = append(parts, fmt.Sprintf("%s=%q", name, labels[name]))
		}
	}
	return labels["__name__"] + "{" + strings.Join(parts, ",") + "}"
}
