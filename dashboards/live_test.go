package dashboards_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/evenkeel/evenkeel/internal/sim/store"
)

// exported gives the series of the daemons' expositions, without comments.
func exported(t *testing.T) []string {
	t.Helper()
	var lines []string
	for _, daemon := range []string{"agent", "collector", "remediator"} {
		content, err := os.ReadFile("../alerts/testdata/" + daemon + ".prom")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// sample takes one line of an exposition apart.
func sample(t *testing.T, line string) (labels.Labels, float64) {
	t.Helper()
	cut := strings.LastIndexByte(line, ' ')
	series, err := parser.NewParser(parser.Options{}).ParseMetric(line[:cut])
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	value, err := strconv.ParseFloat(line[cut+1:], 64)
	if err != nil {
		t.Fatal(err)
	}
	return series, value
}

// cumulative metrics grow from sample to sample.
func cumulative(name string) bool {
	return slices.ContainsFunc([]string{"_total", "_bucket", "_sum", "_count"}, func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}

const scrapeInterval = 15 * time.Second

func push(t *testing.T, s *store.Store, lines []string, round int) {
	t.Helper()
	var request prompb.WriteRequest
	for _, line := range lines {
		series, value := sample(t, line)
		if cumulative(series.Get(model.MetricNameLabel)) {
			value += float64(round)
		}
		request.Timeseries = append(request.Timeseries, prompb.TimeSeries{
			Labels:  prompb.FromLabels(series, nil),
			Samples: []prompb.Sample{{Value: value, Timestamp: time.Now().UnixMilli()}},
		})
	}
	body, err := request.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/v1/write", bytes.NewReader(snappy.Encode(nil, body)))
	r.Header.Set("Content-Encoding", "snappy")
	r.Header.Set("Content-Type", "application/x-protobuf")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusNoContent {
		t.Fatalf("remote write = %d, %s", w.Code, w.Body)
	}
}

// numberOfSeries runs a query over the time range, as Grafana does.
func numberOfSeries(t *testing.T, s *store.Store, expr string, from, to time.Time) int {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/api/v1/query_range?"+url.Values{
		"query": {expr},
		"start": {from.Format(time.RFC3339)},
		"end":   {to.Format(time.RFC3339)},
		"step":  {fmt.Sprint(scrapeInterval.Seconds())},
	}.Encode(), nil)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	var answer struct {
		Status string
		Data   struct{ Result []json.RawMessage }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Status != "success" {
		t.Fatalf("query %s: %d, %s", expr, w.Code, w.Body)
	}
	return len(answer.Data.Result)
}

// Every panel shows something on what the daemons export and the shipped rules
// record, and nothing for a cluster that is not there.
func TestEveryPanelShowsSomething(t *testing.T) {
	rules, err := os.ReadFile("../alerts/rules/evenkeel.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, lines := t.TempDir(), exported(t)
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(store.Options{Dir: dir, Rules: [][]byte{rules}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		from := time.Now()
		for round := range 20 {
			push(t, s, lines, round)
			time.Sleep(scrapeInterval)
		}
		for _, q := range queries(t, vars) {
			if n := numberOfSeries(t, s, q.Expr, from, time.Now()); n == 0 {
				t.Errorf("panel %q shows nothing for %s", q.Panel, q.Expr)
			}
		}
		elsewhere := vars
		elsewhere.Cluster = "nowhere"
		for _, q := range queries(t, elsewhere) {
			if n := numberOfSeries(t, s, q.Expr, from, time.Now()); n != 0 {
				t.Errorf("panel %q shows %d series of another cluster for %s", q.Panel, n, q.Expr)
			}
		}
	})
}
