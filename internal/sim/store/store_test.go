package store

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/prompb"
)

func open(t *testing.T, dir string, rules ...string) *Store {
	t.Helper()
	o := Options{Dir: dir}
	for _, r := range rules {
		o.Rules = append(o.Rules, []byte(r))
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// call makes a request without a network, so that it works in a synctest bubble.
func call(h http.Handler, method, target string, header http.Header, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, body)
	for name := range header {
		r.Header.Set(name, header.Get(name))
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// write sends one sample by remote write 1.0 and gives the answer's status.
func write(t *testing.T, s *Store, name string, at time.Time, value float64) int {
	t.Helper()
	body, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: name}, {Name: "node", Value: "a"}},
		Samples: []prompb.Sample{{Value: value, Timestamp: at.UnixMilli()}},
	}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	w := call(s.Handler(), http.MethodPost, "/api/v1/write", http.Header{
		"Content-Type":                      {"application/x-protobuf"},
		"Content-Encoding":                  {"snappy"},
		"X-Prometheus-Remote-Write-Version": {"0.1.0"},
	}, bytes.NewReader(snappy.Encode(nil, body)))
	return w.Code
}

// query gives the value of the only series of an instant query, "" for none.
func query(t *testing.T, s *Store, expr string, at time.Time) string {
	t.Helper()
	w := call(s.Handler(), http.MethodGet, "/api/v1/query?"+url.Values{
		"query": {expr},
		"time":  {at.Format(time.RFC3339Nano)},
	}.Encode(), nil, nil)
	var answer struct {
		Status string
		Data   struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Status != "success" {
		t.Fatalf("query %s: status %d, %s", expr, w.Code, w.Body)
	}
	switch len(answer.Data.Result) {
	case 0:
		return ""
	case 1:
		return answer.Data.Result[0].Value[1].(string)
	}
	t.Fatalf("query %s = %s, want one series", expr, w.Body)
	return ""
}

type shownAlert struct {
	Labels      map[string]string
	Annotations map[string]string
	Status      struct{ State string }
}

func shownAlerts(t *testing.T, s *Store) []shownAlert {
	t.Helper()
	w := call(s.AlertmanagerHandler(), http.MethodGet, "/api/v2/alerts", nil, nil)
	var alerts []shownAlert
	if err := json.Unmarshal(w.Body.Bytes(), &alerts); err != nil {
		t.Fatalf("alerts: status %d, %s: %v", w.Code, w.Body, err)
	}
	return alerts
}

func TestWhatIsWrittenCanBeQueriedAlsoAfterARestart(t *testing.T) {
	dir, now := t.TempDir(), time.Now().Truncate(time.Millisecond)
	s := open(t, dir)
	if code := write(t, s, "m", now, 42); code != http.StatusNoContent {
		t.Fatalf("write = %d, want %d", code, http.StatusNoContent)
	}
	if got := query(t, s, `m{node="a"}`, now); got != "42" {
		t.Errorf("query = %q, want 42", got)
	}
	if got := query(t, s, `m{node="b"}`, now); got != "" {
		t.Errorf("query for another node = %q, want none", got)
	}
	closeStore(t, s)
	s = open(t, dir)
	defer closeStore(t, s)
	if got := query(t, s, `m{node="a"}`, now); got != "42" {
		t.Errorf("query after a restart = %q, want 42", got)
	}
}

func TestOrderIsEnforced(t *testing.T) {
	s, now := open(t, t.TempDir()), time.Now()
	defer closeStore(t, s)
	for _, tc := range []struct {
		name  string
		at    time.Time
		value float64
		want  int
	}{
		{"first", now, 1, http.StatusNoContent},
		{"repeated", now, 1, http.StatusNoContent},
		{"same time, other value", now, 2, http.StatusBadRequest},
		{"older", now.Add(-time.Millisecond), 1, http.StatusBadRequest},
		{"newer", now.Add(time.Millisecond), 1, http.StatusNoContent},
	} {
		if got := write(t, s, "m", tc.at, tc.value); got != tc.want {
			t.Errorf("write of a sample (%s) = %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestWriteRefusesWhatIsNoRemoteWrite(t *testing.T) {
	s := open(t, t.TempDir())
	defer closeStore(t, s)
	snappied := http.Header{"Content-Type": {"application/x-protobuf"}, "Content-Encoding": {"snappy"}}
	version2 := http.Header{"Content-Type": {"application/x-protobuf;proto=io.prometheus.write.v2.Request"}, "Content-Encoding": {"snappy"}}
	for _, tc := range []struct {
		name   string
		header http.Header
		body   []byte
		want   int
	}{
		{"not compressed", snappied, []byte("\xff\xff\xff"), http.StatusBadRequest},
		{"not protobuf", snappied, snappy.Encode(nil, []byte("\x0a\xff")), http.StatusBadRequest},
		{"remote write 2.0", version2, snappy.Encode(nil, nil), http.StatusUnsupportedMediaType},
	} {
		if got := call(s.Handler(), http.MethodPost, "/api/v1/write", tc.header, bytes.NewReader(tc.body)).Code; got != tc.want {
			t.Errorf("write of a body (%s) = %d, want %d", tc.name, got, tc.want)
		}
	}
}

const hotRule = `
groups:
  - name: g
    interval: 1s
    rules:
      - alert: Hot
        expr: temperature > 80
        for: 2s
        labels: {severity: warning}
        annotations: {summary: hot, description: "{{ $value }} degrees"}
      - record: node:temperature:max
        expr: max by (node) (temperature)
`

func TestAlertAppearsAndDisappears(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir, hotRule)
		defer closeStore(t, s)

		write(t, s, "temperature", time.Now(), 81)
		time.Sleep(2 * time.Second)
		if got := shownAlerts(t, s); len(got) != 0 {
			t.Fatalf("alerts while pending = %v, want none", got)
		}
		time.Sleep(2 * time.Second)
		got := shownAlerts(t, s)
		if len(got) != 1 {
			t.Fatalf("alerts = %v, want one", got)
		}
		want := shownAlert{
			Labels:      map[string]string{"alertname": "Hot", "node": "a", "severity": "warning"},
			Annotations: map[string]string{"summary": "hot", "description": "81 degrees"},
		}
		want.Status.State = "active"
		if diff := cmp.Diff(want, got[0]); diff != "" {
			t.Errorf("alert differs (-want +got):\n%s", diff)
		}
		if got := query(t, s, "node:temperature:max", time.Now()); got != "81" {
			t.Errorf("recorded value = %q, want 81", got)
		}

		write(t, s, "temperature", time.Now(), 80)
		time.Sleep(time.Second + time.Millisecond)
		if got := shownAlerts(t, s); len(got) != 0 {
			t.Errorf("alerts after they resolved = %v, want none", got)
		}
	})
}

func TestSilencedAlertIsShownAsSuppressed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir, hotRule)
		defer closeStore(t, s)
		write(t, s, "temperature", time.Now(), 81)
		time.Sleep(4 * time.Second)

		silence := `{"matchers":[{"name":"node","value":"a","isRegex":false}],"startsAt":"` + time.Now().Format(time.RFC3339) +
			`","endsAt":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `","createdBy":"operator","comment":"known"}`
		w := call(s.AlertmanagerHandler(), http.MethodPost, "/api/v2/silences", http.Header{"Content-Type": {"application/json"}}, strings.NewReader(silence))
		if w.Code != http.StatusOK {
			t.Fatalf("silence = %d, %s", w.Code, w.Body)
		}
		if got := shownAlerts(t, s); len(got) != 1 || got[0].Status.State != "suppressed" {
			t.Errorf("alerts = %v, want one that is suppressed", got)
		}
	})
}

func TestOpenRefusesRulesThatPrometheusRefuses(t *testing.T) {
	for _, tc := range []struct{ name, rules, wantErr string }{
		{"unknown key", "groups: [{name: g, rules: [{alert: A, expr: up, form: 1m}]}]", "form"},
		{"bad expression", "groups: [{name: g, rules: [{alert: A, expr: 'up ='}]}]", "could not parse expression"},
		{"bad template", `groups: [{name: g, rules: [{alert: A, expr: up, annotations: {summary: "{{ nonsense }}"}}]}]`, "nonsense"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := Open(Options{Dir: t.TempDir(), Rules: [][]byte{[]byte(hotRule), []byte(tc.rules)}})
			if err == nil {
				closeStore(t, s)
			}
			if err == nil || !strings.Contains(err.Error(), "rule file 1") || !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("Open(%q) = %v, want an error about rule file 1 with %q", tc.rules, err, tc.wantErr)
			}
		})
	}
}

func TestOpenRefusesAFolderInUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer closeStore(t, s)
	if second, err := Open(Options{Dir: dir}); err == nil {
		closeStore(t, second)
		t.Error("Open of a folder in use succeeds, want an error")
	}
}

// Everything that a person or Grafana may look at answers.
func TestPages(t *testing.T) {
	s := open(t, t.TempDir(), hotRule)
	defer closeStore(t, s)
	write(t, s, "temperature", time.Now(), 81)
	for _, page := range []struct {
		handler http.Handler
		path    string
		want    string
	}{
		{s.Handler(), "/-/healthy", "ready"},
		{s.Handler(), "/-/ready", "ready"},
		{s.Handler(), "/metrics", "prometheus_tsdb_head_series 1"},
		{s.Handler(), "/api/v1/labels", `"node"`},
		{s.Handler(), "/api/v1/label/__name__/values", `"temperature"`},
		{s.Handler(), "/api/v1/series?match[]=temperature", `"a"`},
		{s.Handler(), "/api/v1/query_range?query=temperature&start=0&end=1&step=1", `"matrix"`},
		{s.Handler(), "/api/v1/query_exemplars?query=temperature&start=0&end=1", `"success"`},
		{s.Handler(), "/api/v1/metadata", `"success"`},
		{s.Handler(), "/api/v1/rules", `"Hot"`},
		{s.Handler(), "/api/v1/alerts", `"alerts"`},
		{s.Handler(), "/api/v1/targets", `"activeTargets":[]`},
		{s.Handler(), "/api/v1/alertmanagers", `"success"`},
		{s.Handler(), "/api/v1/scrape_pools", `"success"`},
		{s.Handler(), "/api/v1/status/config", `"success"`},
		{s.Handler(), "/api/v1/status/flags", `"success"`},
		{s.Handler(), "/api/v1/status/runtimeinfo", `"startTime"`},
		{s.Handler(), "/api/v1/status/buildinfo", `"goVersion"`},
		{s.Handler(), "/api/v1/status/tsdb", `"numSeries":1`},
		{s.Handler(), "/api/v1/status/tsdb/blocks", `"success"`},
		{s.Handler(), "/api/v1/status/walreplay", `"success"`},
		{s.AlertmanagerHandler(), "/api/v2/status", `"disabled"`},
		{s.AlertmanagerHandler(), "/api/v2/receivers", `"nobody"`},
		{s.AlertmanagerHandler(), "/api/v2/silences", `[]`},
	} {
		w := call(page.handler, http.MethodGet, page.path, http.Header{"Origin": {"http://elsewhere.example"}}, nil)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), page.want) {
			t.Errorf("GET %s = %d, %s, want 200 with %s", page.path, w.Code, w.Body, page.want)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		s, err := Open(Options{Dir: b.TempDir(), Rules: [][]byte{[]byte(hotRule)}})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
