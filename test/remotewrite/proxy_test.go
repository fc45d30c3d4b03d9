package remotewrite

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// staleNaN is Prometheus's mark for the end of a series (value.StaleNaN).
const staleNaN = uint64(0x7ff0000000000002)

// sampleID is a series and a time.
type sampleID struct {
	series string
	at     int64 // ms
}

// accounts is a proxy in front of a store that keeps account of every sample that
// passes. It decodes with Prometheus's own types.
type accounts struct {
	store string
	t     *testing.T

	mu sync.Mutex
	// stored is every sample that the store took, with the bits of its value.
	stored map[sampleID]uint64
	// newest is the time of the newest sample of each series that the store took.
	newest map[string]int64
	// settled are the bodies whose acknowledgement went out to the agent.
	settled map[[sha256.Size]byte]bool
	taken   map[[sha256.Size]byte]bool

	bodies, failed, acksLost int
	repeatedUnsettled        int // bodies that came again after no acknowledgement
	repeatedSettled          int // bodies that came again all the same
	disorders                []string
}

// loseEvery is how often an acknowledgement is lost on its way back.
const loseEvery = 7

func newAccounts(t *testing.T, store string) (*accounts, string) {
	a := &accounts{
		store: store, t: t,
		stored: make(map[sampleID]uint64), newest: make(map[string]int64),
		settled: make(map[[sha256.Size]byte]bool), taken: make(map[[sha256.Size]byte]bool),
	}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	return a, server.URL + "/api/v1/write"
}

func (a *accounts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the agent was killed
	}
	status, answer, err := a.forward(r, body)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bodies++
	if err != nil {
		a.failed++
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	switch status / 100 {
	case 2:
		a.record(body)
		if a.bodies%loseEvery == 0 {
			a.acksLost++
			panic(http.ErrAbortHandler) // the connection ends without an answer
		}
		a.settled[sha256.Sum256(body)] = true
	case 5:
		a.failed++ // a store that is being stopped; the body has to come again
	default:
		a.t.Errorf("the store answered %d: %s", status, answer)
	}
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

func (a *accounts) forward(r *http.Request, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, a.store+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header = r.Header.Clone()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// record keeps account of a body that the store took.
func (a *accounts) record(body []byte) {
	sum := sha256.Sum256(body)
	again := a.taken[sum]
	switch {
	case again && a.settled[sum]:
		a.repeatedSettled++
	case again:
		a.repeatedUnsettled++
	}
	a.taken[sum] = true
	for id, bits := range decode(a.t, body) {
		if before, seen := a.stored[id]; seen != again || seen && before != bits {
			a.disorders = append(a.disorders, "a sample came twice, in different bodies: "+id.series)
		}
		if !again && id.at <= a.newest[id.series] {
			a.disorders = append(a.disorders, "a sample came after a younger one of its series: "+id.series)
		}
		a.stored[id] = bits
		a.newest[id.series] = max(a.newest[id.series], id.at)
	}
}

func decode(t *testing.T, body []byte) map[sampleID]uint64 {
	raw, err := snappy.Decode(nil, body)
	if err != nil {
		t.Errorf("snappy: %v", err)
		return nil
	}
	var request prompb.WriteRequest
	if err := request.Unmarshal(raw); err != nil {
		t.Errorf("decode a body: %v", err)
		return nil
	}
	out := make(map[sampleID]uint64)
	for _, series := range request.Timeseries {
		labels := make(map[string]string)
		for _, l := range series.Labels {
			labels[l.Name] = l.Value
		}
		for _, s := range series.Samples {
			out[sampleID{seriesName(labels), s.Timestamp}] = math.Float64bits(s.Value)
		}
	}
	return out
}
