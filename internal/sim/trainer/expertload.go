package trainer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// expertLoadBody is what the collector takes: the counts of one window.
type expertLoadBody struct {
	Schema        int              `json:"schema"`
	Cluster       string           `json:"cluster"`
	Model         string           `json:"model"`
	Replica       string           `json:"replica"`
	Job           string           `json:"job"`
	WindowSeconds float64          `json:"window_seconds"`
	Generation    int64            `json:"generation"`
	TopK          int              `json:"top_k"`
	Counts        [][]int64        `json:"counts"`    // [layer][expert] assignments
	Placement     [][][]int        `json:"placement"` // [layer][expert] ranks
	Ranks         []expertLoadRank `json:"ranks"`
}

type expertLoadRank struct {
	Rank       int     `json:"rank"`
	Node       string  `json:"node"`
	DeviceUUID string  `json:"device_uuid"`
	Seconds    float64 `json:"seconds"` // that the rank computed in the window
}

// postTimeout bounds one post to the collector.
const postTimeout = 5 * time.Second

// windows collects the router's counts and passes them on window by window.
// Training never waits for the receiver: a window that would have to is
// dropped, and reported.
type windows struct {
	c      *Config
	began  time.Time
	client *http.Client
	file   *os.File
	queue  chan window
	sent   chan struct{} // closed when the last window was passed on
	events *events
}

// window is an encoded body and the step that ended it.
type window struct {
	step int
	body []byte
}

func newWindows(c *Config, e *events) (*windows, error) {
	s := &windows{c: c, events: e, queue: make(chan window, 1), sent: make(chan struct{})}
	var err error
	if s.client, err = newClient(&c.ExpertLoad); err != nil {
		return nil, fmt.Errorf("expert load: %w", err)
	}
	if s.file, err = openAppend(c.ExpertLoad.Path); err != nil {
		return nil, fmt.Errorf("expert load: %w", err)
	}
	go func() {
		defer close(s.sent)
		for w := range s.queue {
			s.pass(w)
		}
	}()
	return s, nil
}

// close passes on what is queued.
func (s *windows) close() {
	close(s.queue)
	<-s.sent
	s.file.Close()
}

// report tells of a window that was not passed on.
func (s *windows) report(step int, err error) {
	s.events.tell(Event{Event: "error", Step: step, Detail: err.Error()})
}

// add ends the window after a step if it is long enough.
func (s *windows) add(w *world, step int, now time.Time) {
	length := s.c.ExpertLoad.WindowSeconds
	if length == 0 {
		return
	}
	if s.began.IsZero() {
		s.begin(w, now) // the first step belongs to no window: its length is not known
		return
	}
	elapsed := now.Sub(s.began).Seconds()
	if elapsed < length {
		return
	}
	body, err := json.Marshal(s.body(w, elapsed))
	if err != nil {
		s.report(step, fmt.Errorf("encode expert load: %w", err))
		return
	}
	s.begin(w, now)
	select {
	case s.queue <- window{step, append(body, '\n')}:
	default:
		s.report(step, errors.New("expert load: window dropped, the collector is too slow"))
	}
}

func (s *windows) begin(w *world, now time.Time) {
	s.began = now
	clear(w.busy)
	for _, layer := range w.counts {
		clear(layer)
	}
}

func (s *windows) body(w *world, seconds float64) expertLoadBody {
	b := expertLoadBody{
		Schema: 1, Cluster: s.c.ExpertLoad.Cluster, Model: s.c.ExpertLoad.Model, Replica: s.c.ExpertLoad.Replica, Job: s.c.Job,
		WindowSeconds: seconds, Generation: 1, TopK: topK, Counts: w.counts,
	}
	for range w.counts {
		layer := make([][]int, s.c.Experts)
		for e := range layer {
			layer[e] = []int{e / w.owned}
		}
		b.Placement = append(b.Placement, layer)
	}
	for r, rank := range s.c.Ranks {
		b.Ranks = append(b.Ranks, expertLoadRank{Rank: r, Node: rank.Node, DeviceUUID: rank.DeviceUUID, Seconds: w.busy[r].Seconds()})
	}
	return b
}

// pass writes a window to the file and posts it to the collector.
func (s *windows) pass(w window) {
	if _, err := s.file.Write(w.body); err != nil {
		s.report(w.step, fmt.Errorf("write expert load: %w", err))
	}
	if s.c.ExpertLoad.URL == "" {
		return
	}
	if err := s.post(w.body); err != nil {
		s.report(w.step, fmt.Errorf("post expert load: %w", err))
	}
}

func (s *windows) post(body []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), postTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.c.ExpertLoad.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // only for the message
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(answer))
	}
	return nil
}

// newClient makes a client that shows its certificate and knows the collector's
// authority, as far as they are given.
func newClient(e *ExpertLoad) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.CertFile != "" {
		certificate, err := tls.LoadX509KeyPair(e.CertFile, e.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	if e.CAFile != "" {
		content, err := os.ReadFile(e.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read certificate authority: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(content) {
			return nil, fmt.Errorf("read certificate authority: no certificate in %s", e.CAFile)
		}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: 1}}, nil
}
