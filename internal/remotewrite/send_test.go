package remotewrite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/sigv4"
)

func TestMain(m *testing.M) {
	// The AWS SDK must find nothing of the machine's own.
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// store is a receiver that answers by script: the nth request gets the nth
// answer, the last answer for ever.
type store struct {
	script []string // "204", "503 1" (Retry-After: 1), "400 words", "error"
	start  time.Time

	mu    sync.Mutex
	got   []string
	times []time.Duration
}

func (s *store) RoundTrip(req *http.Request) (*http.Response, error) {
	content, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	line := s.script[min(len(s.got), len(s.script)-1)]
	s.got = append(s.got, string(content))
	s.times = append(s.times, time.Since(s.start))
	if line == "error" {
		return nil, errors.New("connection refused")
	}
	status, rest, _ := strings.Cut(line, " ")
	recorder := httptest.NewRecorder()
	if status == "429" || status == "503" {
		recorder.Header().Set("Retry-After", rest)
	}
	var code int
	if _, err := fmt.Sscan(status, &code); err != nil {
		return nil, err
	}
	recorder.WriteHeader(code)
	_, _ = recorder.WriteString(rest)
	return recorder.Result(), nil
}

// sendAll runs a sender in a bubble until all bodies are settled or an hour has
// passed, and says which requests the store saw.
func sendAll(t *testing.T, s *store, logs io.Writer, bodies ...string) *metrics {
	t.Helper()
	var m *metrics
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		spool, made := openSpool(t, dir, SpoolConfig{MaxAge: 30 * time.Minute})
		m = made
		s.start = time.Now()
		for _, text := range bodies {
			spool.Append(Body{Time: time.Now().UnixMilli(), Samples: 1, Content: []byte(text)}, time.Now())
		}
		logger := slog.New(slog.NewTextHandler(logs, nil))
		sending := sender{
			url: "http://store.test/write", userAgent: "evenkeel-test/1", timeout: 30 * time.Second,
			client: &http.Client{Transport: s}, spool: spool, metrics: m, complain: newComplainer(logger), logger: logger,
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var done sync.WaitGroup
		done.Go(func() { sending.run(ctx) })
		for spool.Pending().Samples > 0 && ctx.Err() == nil {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		cancel()
		done.Wait()
		closeSpool(t, spool)
	})
	return m
}

func TestSenderAnswers(t *testing.T) {
	for _, tc := range []struct {
		name    string
		script  []string
		want    []string // requests, in order
		dropped float64  // as rejected
	}{
		{"accepted", []string{"204"}, []string{"a", "b"}, 0},
		{"any 2xx", []string{"200", "299"}, []string{"a", "b"}, 0},
		{"server trouble", []string{"500", "503 ", "204"}, []string{"a", "a", "a", "b"}, 0},
		{"throttled", []string{"429 ", "204"}, []string{"a", "a", "b"}, 0},
		{"credentials expired", []string{"403", "401", "204"}, []string{"a", "a", "a", "b"}, 0},
		{"redirect is a mistake that can be repaired", []string{"302", "204"}, []string{"a", "a", "b"}, 0},
		{"no connection", []string{"error", "error", "204"}, []string{"a", "a", "a", "b"}, 0},
		{"body refused", []string{"400 out of order", "204"}, []string{"a", "b"}, 1},
		{"body too large", []string{"413", "413"}, []string{"a", "b"}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &store{script: tc.script}
			m := sendAll(t, s, io.Discard, "a", "b")
			if !slices.Equal(s.got, tc.want) {
				t.Errorf("requests = %v, want %v", s.got, tc.want)
			}
			if got := dropped(m, dropRejected); got != tc.dropped {
				t.Errorf("rejected samples = %v, want %v", got, tc.dropped)
			}
			if got := testutil.ToFloat64(m.sentSamples); got != 2-tc.dropped {
				t.Errorf("sent samples = %v, want %v", got, 2-tc.dropped)
			}
		})
	}
}

func TestSenderBacksOff(t *testing.T) {
	s := &store{script: []string{"error", "error", "error", "error", "error", "error", "error", "error", "204"}}
	sendAll(t, s, io.Discard, "a")
	for i := 1; i < len(s.times); i++ {
		wait := s.times[i] - s.times[i-1]
		full := min(minBackoff<<(i-1), maxBackoff)
		if wait < full/2 || wait > full {
			t.Errorf("wait %d = %v, want between %v and %v", i, wait, full/2, full)
		}
	}
}

func TestSenderHonoursRetryAfter(t *testing.T) {
	s := &store{script: []string{"429 17", "503 100000", "204"}}
	sendAll(t, s, io.Discard, "a")
	if got := s.times[1] - s.times[0]; got != 17*time.Second {
		t.Errorf("wait after Retry-After: 17 = %v", got)
	}
	if got := s.times[2] - s.times[1]; got != maxRetryAfter {
		t.Errorf("wait after Retry-After: 100000 = %v, want %v", got, maxRetryAfter)
	}
}

func TestSenderGivesUpWhatIsTooOld(t *testing.T) {
	s := &store{script: []string{"error"}}
	m := sendAll(t, s, io.Discard, "a", "b")
	if dropped(m, dropTooOld) != 2 {
		t.Errorf("dropped = %v, want both", dropped(m, dropTooOld))
	}
	if last := s.times[len(s.times)-1]; last > 30*time.Minute {
		t.Errorf("last attempt after %v, want none beyond 30m", last)
	}
	if slices.Contains(s.got, "b") {
		t.Error("the younger body was sent before the older one was settled")
	}
}

func TestSenderLogsAServersWordsOnceAndBounded(t *testing.T) {
	var logs strings.Builder
	s := &store{script: []string{"400 " + strings.Repeat("long words\n", 10_000)}}
	bodies := make([]string, 50)
	for i := range bodies {
		bodies[i] = fmt.Sprint(i)
	}
	sendAll(t, s, &logs, bodies...)
	if n := strings.Count(logs.String(), "long words"); n != 1 {
		t.Errorf("%d lines repeat the server's words, want 1:\n%.600s", n, logs.String())
	}
	if logs.Len() > 2000 {
		t.Errorf("log has %d bytes, want it bounded", logs.Len())
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "-3": 0, "soon": 0, "99999999999999999999": 0, "4000000000": maxRetryAfter,
		now.Add(9 * time.Second).Format(http.TimeFormat):  9 * time.Second,
		now.Add(-9 * time.Second).Format(http.TimeFormat): 0,
	} {
		if got := parseRetryAfter(value, now); got != want {
			t.Errorf("parseRetryAfter(%q) = %v, want %v", value, got, want)
		}
	}
}

func testWriter(t *testing.T, config Config, reg prometheus.Registerer) *Writer {
	t.Helper()
	w, err := New(Options{Config: config, Dir: t.TempDir(), UserAgent: "evenkeel-test/1", Registerer: reg, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// received is what a real HTTP server saw of one request.
type received struct {
	header  http.Header
	samples int
}

func serve(t *testing.T) (url string, requests <-chan received) {
	t.Helper()
	seen := make(chan received, 16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		seen <- received{r.Header, len(decodeBody(t, content))}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	return server.URL, seen
}

func TestWriterSpeaksRemoteWrite1(t *testing.T) {
	url, requests := serve(t)
	config := DefaultConfig()
	config.URL = url
	reg := prometheus.NewPedanticRegistry()
	w := testWriter(t, config, reg)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	w.Write(steadyFamilies(t, 3), time.Now())
	got := <-requests
	for name, want := range map[string]string{
		"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf",
		"X-Prometheus-Remote-Write-Version": "0.1.0", "User-Agent": "evenkeel-test/1", "Authorization": "",
	} {
		if got.header.Get(name) != want {
			t.Errorf("header %s = %q, want %q", name, got.header.Get(name), want)
		}
	}
	if got.samples != 3 {
		t.Errorf("samples = %d, want 3", got.samples)
	}
	cancel()
	running.Wait() // an acknowledgement on its way is waited for
	if n := testutil.ToFloat64(w.metrics.sentSamples); n != 3 {
		t.Errorf("sent samples = %v, want 3", n)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metric names: %v, %v", problems, err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// A disk that hangs costs samples, never the caller's time.
func TestWriterNeverBlocksItsCaller(t *testing.T) {
	w := testWriter(t, DefaultConfig(), nil) // nothing takes from the queue
	families := steadyFamilies(t, 7)
	for range maxQueued + 2 {
		w.Write(families, time.Now())
	}
	if got := dropped(w.metrics, dropDisk); got != 14 {
		t.Errorf("dropped = %v, want the 14 samples of two gatherings", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.Run(ctx) // what was taken is spooled even now
	if got := w.spool.Pending().Samples; got != maxQueued*7 {
		t.Errorf("spooled = %d, want %d", got, maxQueued*7)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestWriterSignsWithSigV4OnceCredentialsAppear(t *testing.T) {
	url, requests := serve(t)
	config := DefaultConfig()
	config.URL = url
	config.SigV4 = &sigv4.SigV4Config{Region: "us-west-2"}
	w := testWriter(t, config, nil) // no credentials yet, and no complaint
	if a := w.sender.attempt(t.Context(), []byte("x")); a.verdict != retry || !strings.Contains(a.message, "SigV4") {
		t.Errorf("attempt without credentials = %+v, want a retry that says why", a)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	w.Write(steadyFamilies(t, 1), time.Now())
	got := <-requests
	if auth := got.header.Get("Authorization"); !strings.Contains(auth, "AKIDEXAMPLE/") || !strings.Contains(auth, "/us-west-2/aps/aws4_request") {
		t.Errorf("Authorization = %q, want one signed for aps in us-west-2", auth)
	}
	cancel()
	running.Wait()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestConfigValidate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   string // field in the error, empty for none
	}{
		{"default", func(*Config) {}, ""},
		{"url", func(c *Config) { c.URL = "https://store.test/api/v1/write" }, ""},
		{"no scheme", func(c *Config) { c.URL = "store.test:9090" }, "remote_write.url"},
		{"password in url", func(c *Config) { c.URL = "https://u:hunter2@store.test" }, "remote_write.url"},
		{"no timeout", func(c *Config) { c.Timeout = 0 }, "remote_write.timeout"},
		{"half a certificate", func(c *Config) { c.TLS.CertFile = "x" }, "remote_write.tls"},
		{"half a key pair", func(c *Config) { c.SigV4 = &sigv4.SigV4Config{AccessKey: "x"} }, "remote_write.sigv4"},
		{"smallest spool", func(c *Config) { c.Spool.MaxBytes = minSpoolBytes }, ""},
		{"too small a spool", func(c *Config) { c.Spool.MaxBytes = minSpoolBytes - 1 }, "remote_write.spool.max_bytes"},
		{"no age", func(c *Config) { c.Spool.MaxAge = 0 }, "remote_write.spool.max_age"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := DefaultConfig()
			tc.change(&c)
			err := c.Validate()
			if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want+":") {
				t.Errorf("Validate = %v, want an error about %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Validate repeats the password: %v", err)
			}
		})
	}
}
