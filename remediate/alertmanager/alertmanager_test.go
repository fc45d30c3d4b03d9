package alertmanager

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/sigv4"
)

func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func TestDecode(t *testing.T) {
	one := func(labels, state string) string {
		return `[{"labels":{` + labels + `},"annotations":{"summary":"s"},"status":{"state":"` + state + `","silencedBy":[]},"fingerprint":"f"}]`
	}
	const firing = `"alertname":"GPUOffTheBus","node":"n1","cluster":"hp"`
	for _, test := range []struct {
		name, body string
		want       map[string][]string
	}{
		{"firing", one(firing, "active"), map[string][]string{"n1": {"GPUOffTheBus"}}},
		{"no cluster named", one(`"alertname":"A","node":"n1"`, "active"), map[string][]string{"n1": {"A"}}},
		{"another cluster", one(`"alertname":"A","node":"n1","cluster":"other"`, "active"), map[string][]string{}},
		{"suppressed", one(firing, "suppressed"), map[string][]string{}},
		{"no node", one(`"alertname":"A"`, "active"), map[string][]string{}},
		{"node that is no name", one(`"alertname":"A","node":"../n1"`, "active"), map[string][]string{}},
		{"no alert name", one(`"node":"n1"`, "active"), map[string][]string{}},
		{"none", `[]`, map[string][]string{}},
		{"two of one name, another before it", `[
			{"labels":{"alertname":"B","node":"n1","gpu":"0"},"status":{"state":"active"}},
			{"labels":{"alertname":"B","node":"n1","gpu":"1"},"status":{"state":"active"}},
			{"labels":{"alertname":"A","node":"n1"},"status":{"state":"active"}}]`, map[string][]string{"n1": {"A", "B"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := decode([]byte(test.body), "hp")
			if err != nil || !cmp.Equal(got, test.want) {
				t.Errorf("decode() = %v, %v, want %v", got, err, test.want)
			}
		})
	}
	for _, body := range []string{"", "null", "{}", `{"status":"success","data":[]}`, `[{"labels":`, `[{"labels":[]}]`, strings.Repeat(" ", maxBody) + "[]"} {
		if got, err := decode([]byte(body), "hp"); err == nil {
			t.Errorf("decode(%.20q) = %v, want an error", body, got)
		}
	}
}

func TestPollKeepsAndMarks(t *testing.T) {
	answer := http.NotFound
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		answer(w, r)
	}))
	defer server.Close()
	says := func(body string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
	}
	c := DefaultConfig()
	c.URL = server.URL + "/alertmanager/"
	p := New(c, "hp")
	for _, step := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request)
		ok     bool
		want   map[string][]string
	}{
		{"first poll fails", http.NotFound, false, map[string][]string{}},
		{"alert fires", says(`[{"labels":{"alertname":"A","node":"n1"},"status":{"state":"active"}}]`), true, map[string][]string{"n1": {"A"}}},
		{"garbage", says(`<html>`), false, map[string][]string{"n1": {"A" + StaleMark}}},
		{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) }, false, map[string][]string{"n1": {"A" + StaleMark}}},
		{"back again", says(`[{"labels":{"alertname":"A","node":"n1"},"status":{"state":"active"}}]`), true, map[string][]string{"n1": {"A"}}},
		{"resolved", says(`[]`), true, map[string][]string{}},
	} {
		answer = step.answer
		if err := p.Poll(t.Context()); (err == nil) != step.ok {
			t.Errorf("%s: Poll() = %v, want success %v", step.name, err, step.ok)
		}
		got := p.Alerts()
		if len(got) == 0 {
			got = map[string][]string{}
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s: Alerts() (-want +got):\n%s", step.name, diff)
		}
	}
	if want := "/alertmanager/api/v2/alerts?active=true&silenced=false&inhibited=false"; asked != want {
		t.Errorf("asked for %s, want %s", asked, want)
	}
}

func TestPollGivesUp(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	c := DefaultConfig()
	c.URL, c.Timeout = server.URL, 10*time.Millisecond
	if err := New(c, "hp").Poll(t.Context()); err == nil {
		t.Error("Poll() of a server that hangs = nil, want an error")
	}
}

func TestPollSigns(t *testing.T) {
	var authorization string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization = r.Header.Get("Authorization")
		_, _ = w.Write([]byte("[]"))
	}))
	defer server.Close()
	c := DefaultConfig()
	c.URL = server.URL
	c.SigV4 = &sigv4.SigV4Config{Region: "us-east-1", AccessKey: "AKIDEXAMPLE", SecretKey: "secret"}
	if err := New(c, "hp").Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(authorization, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") || !strings.Contains(authorization, "/us-east-1/aps/aws4_request") {
		t.Errorf("Authorization = %q, want a signature for aps in us-east-1", authorization)
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) {}, ""},
		{func(c *Config) { c.URL = "https://am.example.com" }, ""},
		{func(c *Config) { c.URL = "am.example.com:9093" }, "alertmanager.url"},
		{func(c *Config) { c.Interval = 0 }, "alertmanager.interval"},
		{func(c *Config) { c.Timeout = -1 }, "alertmanager.timeout"},
		{func(c *Config) { c.TLS.CertFile = "a.pem" }, "alertmanager.tls"},
		{func(c *Config) { c.SigV4 = &sigv4.SigV4Config{AccessKey: "a"} }, "alertmanager.sigv4"},
	} {
		c := DefaultConfig()
		test.change(&c)
		err := c.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("Validate(%+v) = %v, want %q", c, err, test.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`[{"labels":{"alertname":"A","node":"n1","cluster":"hp"},"status":{"state":"active"}}]`))
	f.Add([]byte(`[{"labels":null},null,{}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		alerts, err := decode(body, "hp")
		if err != nil {
			return
		}
		for node, names := range alerts {
			if node == "" || len(names) == 0 || len(names) > maxAlertsPerNode {
				t.Errorf("decode() gives %q the alerts %q", node, names)
			}
		}
	})
}
