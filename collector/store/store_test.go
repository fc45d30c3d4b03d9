package store

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/sigv4"

	"github.com/evenkeel/evenkeel/collector/correlate"
	"github.com/evenkeel/evenkeel/internal/httpclient"
)

var now = time.Unix(1_763_985_600, 0)

// series is one element of an answer to a range selector; ages are in seconds.
func series(metric, labels string, samples ...[2]float64) string {
	var values []string
	for _, s := range samples {
		values = append(values, fmt.Sprintf(`[%.3f,"%g"]`, float64(now.Unix())-s[0], s[1]))
	}
	return fmt.Sprintf(`{"metric":{"__name__":%q,%s},"values":[%s]}`, metric, labels, strings.Join(values, ","))
}

// server answers each query with the given series and keeps the queries.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	queries []string
	headers []http.Header
}

func newServer(t *testing.T, answer func(query string) string) *server {
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		query := form.Get("query")
		s.mu.Lock()
		s.queries = append(s.queries, query)
		s.headers = append(s.headers, r.Header)
		s.mu.Unlock()
		fmt.Fprint(w, answer(query))
	}))
	t.Cleanup(s.Close)
	return s
}

func matrix(all ...string) string {
	return `{"status":"success","data":{"resultType":"matrix","result":[` + strings.Join(all, ",") + `]}}`
}

func client(t *testing.T, s *server) *Client {
	t.Helper()
	c, err := New(s.URL, "c", time.Minute, httpclient.New("store", httpclient.TLS{}, Bound))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDevices(t *testing.T) {
	const gpu0, gpu1 = `"UUID":"GPU-0","pci_bus_id":"00000000:53:00.0"`, `"UUID":"GPU-1","pci_bus_id":"00000000:54:00.0"`
	s := newServer(t, func(string) string {
		return matrix(
			series(smClock, gpu0, [2]float64{30, 1980}, [2]float64{10, 1200}),
			series(maxSMClock, gpu0, [2]float64{10, 1980}),
			series(temperature, gpu0, [2]float64{60, 70}),
			series(doubleBitECC, gpu0, [2]float64{61, 3}),
			series(smClock, gpu1, [2]float64{90, 1980}),
		)
	})
	got, err := client(t, s).Devices(t.Context(), []string{"GPU-0", "GPU-1", "GPU-2"}, now)
	if err != nil {
		t.Fatal(err)
	}
	// The newest value counts, and one that is older than a minute was not measured.
	want := map[string]correlate.Device{"GPU-0": {PCI: "0000:53:00", SMClock: new(1200.0), MaxSMClock: new(1980.0), TemperatureCelsius: new(70.0)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Devices() differs (-want +got):\n%s", diff)
	}
	wantQuery := `{__name__=~"DCGM_FI_DEV_SM_CLOCK|DCGM_FI_DEV_MAX_SM_CLOCK|DCGM_FI_DEV_GPU_TEMP|DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",cluster="c",UUID=~"GPU-0|GPU-1|GPU-2"}[60000ms]`
	if diff := cmp.Diff([]string{wantQuery}, s.queries); diff != "" {
		t.Errorf("queries differ (-want +got):\n%s", diff)
	}
}

func TestQueriesAreNarrow(t *testing.T) {
	s := newServer(t, func(string) string { return matrix() })
	c := client(t, s)
	if _, err := c.Devices(t.Context(), nil, now); err != nil || len(s.queries) != 0 {
		t.Errorf("asking about nothing: %v, queries %q, want none", err, s.queries)
	}
	var uuids []string
	for i := range 2*devicesPerQuery + 1 {
		uuids = append(uuids, fmt.Sprintf("GPU-%d", i))
	}
	if _, err := c.Devices(t.Context(), uuids, now); err != nil || len(s.queries) != 3 {
		t.Errorf("asking about %d devices: %v, %d queries, want 3", len(uuids), err, len(s.queries))
	}
}

// A name that is a pattern, or that would end the string, is only a name.
func TestQueriesQuote(t *testing.T) {
	c := &Client{cluster: `c"`, freshness: time.Second}
	want := `{__name__=~"up",cluster="c\"",UUID=~"\\.\\*|a\"b"}[1000ms]`
	if got := c.selector([]string{"up"}, []string{".*", `a"b`}); got != want {
		t.Errorf("selector() = %s, want %s", got, want)
	}
}

func TestProcesses(t *testing.T) {
	labels := func(job, rank, uuid string) string {
		return fmt.Sprintf(`"job":%q,"rank":%q,"UUID":%q,"node":"n1"`, job, rank, uuid)
	}
	s := newServer(t, func(string) string {
		return matrix(
			series(processInfo, labels("41", "7", "GPU-0"), [2]float64{40, 1}), // the job before
			series(processInfo, labels("42", "0", "GPU-0"), [2]float64{10, 1}),
			series(processInfo, labels("42", "1", "GPU-1"), [2]float64{5, 1}),
			series(processInfo, labels("42", "2", "GPU-2"), [2]float64{61, 1}),
			series(processInfo, labels("42", "", "GPU-3"), [2]float64{5, 1}),
		)
	})
	got, err := client(t, s).Processes(t.Context(), []string{"GPU-0", "GPU-1", "GPU-2", "GPU-3"}, now)
	want := []correlate.Sighting{
		{Source: "metric store", Place: correlate.Place{Job: "42", Rank: 0, Node: "n1", DeviceUUID: "GPU-0"}},
		{Source: "metric store", Place: correlate.Place{Job: "42", Rank: 1, Node: "n1", DeviceUUID: "GPU-1"}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Processes() = %v, differs (-want +got):\n%s", err, diff)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for name, answer := range map[string]string{
		"an error":          `{"status":"error","errorType":"execution","error":"query timed out"}`,
		"an instant vector": `{"status":"success","data":{"resultType":"vector","result":[]}}`,
		"garbage":           `<html>`,
		"without end":       `{"status":"success","data":{"resultType":"matrix","result":[` + strings.Repeat(" ", maxAnswerBytes) + `]}}`,
	} {
		s := newServer(t, func(string) string { return answer })
		if got, err := client(t, s).Devices(t.Context(), []string{"GPU-0"}, now); err == nil {
			t.Errorf("%s: Devices() = %v, want an error", name, got)
		}
	}
}

func TestSign(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	s := newServer(t, func(string) string { return matrix() })
	c, err := New(s.URL, "c", time.Minute, httpclient.New("store", httpclient.TLS{}, Bound, Sign(&sigv4.SigV4Config{Region: "us-west-2"})))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Devices(t.Context(), []string{"GPU-0"}, now); err == nil || !strings.Contains(err.Error(), "SigV4") {
		t.Errorf("Devices() without credentials = %v, want an error about SigV4", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
	if _, err := c.Devices(t.Context(), []string{"GPU-0"}, now); err != nil {
		t.Fatal(err)
	}
	if got := s.headers[0].Get("Authorization"); !strings.Contains(got, "AKIDEXAMPLE/") || !strings.Contains(got, "/us-west-2/aps/aws4_request") {
		t.Errorf("Authorization = %q, want one signed for aps in us-west-2", got)
	}
}
