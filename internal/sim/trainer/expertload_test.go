package trainer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWindowsAreWritten(t *testing.T) {
	c := config(4)
	c.Steps, c.StepsPerSecond = 12, 200
	c.ExpertLoad = ExpertLoad{WindowSeconds: 1e-9, Cluster: "c", Path: filepath.Join(t.TempDir(), "load.jsonl")}
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(c.ExpertLoad.Path)
	if err != nil {
		t.Fatal(err)
	}
	windows := 0
	for line := range bytes.Lines(content) {
		windows++
		checkWindow(t, line, int64(topK*len(c.Ranks)*c.TokensPerRank))
	}
	if windows == 0 {
		t.Error("no window was written")
	}
}

// checkWindow checks the body of a window of one step.
func checkWindow(t *testing.T, content []byte, assignments int64) {
	t.Helper()
	var b expertLoadBody
	if err := json.Unmarshal(content, &b); err != nil {
		t.Fatalf("window %q: %v", content, err)
	}
	if b.Schema != 1 || b.Cluster != "c" || b.Model != "tiny-moe" || b.Replica != "r0" || b.Job != "42" || b.TopK != 2 || b.WindowSeconds <= 0 {
		t.Errorf("window = %s, want schema 1, cluster c, model tiny-moe, replica r0, job 42, top_k 2 and a length", content)
	}
	for l, layer := range b.Counts {
		var sum int64
		for _, n := range layer {
			sum += n
		}
		if sum != assignments {
			t.Errorf("counts of layer %d = %v, sum %d, want %d", l, layer, sum, assignments)
		}
	}
	if len(b.Counts) != 2 || len(b.Placement) != 2 || len(b.Placement[0]) != 8 || b.Placement[1][7][0] != 3 {
		t.Errorf("placement = %v for %d layers, want 2 layers of 8 experts on 4 ranks", b.Placement, len(b.Counts))
	}
	if len(b.Ranks) != 4 || b.Ranks[3].Rank != 3 || b.Ranks[3].Node != "node-1" || b.Ranks[3].DeviceUUID != "GPU-3" || b.Ranks[3].Seconds <= 0 {
		t.Errorf("ranks = %+v, want 4 with node, device and time", b.Ranks)
	}
}

func TestWindowsArePosted(t *testing.T) {
	dir := t.TempDir()
	certify(t, dir)
	bodies := make(chan []byte, 100)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/expert-load" || r.TLS.PeerCertificates[0].DNSNames[0] != "engine" {
			t.Errorf("%s %s by %v: %v", r.Method, r.URL, r.TLS.PeerCertificates[0].DNSNames, err)
		}
		bodies <- body
		w.WriteHeader(http.StatusNoContent)
	}))
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()

	c := config(4)
	c.Steps = 3
	c.ExpertLoad = ExpertLoad{
		WindowSeconds: 1e-9, Cluster: "c", URL: server.URL + "/v1/expert-load",
		CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), CAFile: filepath.Join(dir, "cert.pem"),
	}
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	checkWindow(t, <-bodies, int64(topK*len(c.Ranks)*c.TokensPerRank))
}

// TestCollectorAwayIsTold posts to where nothing listens: training goes on.
func TestCollectorAwayIsTold(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	var events bytes.Buffer
	c := config(2)
	c.Steps, c.Events = 3, &events
	c.ExpertLoad = ExpertLoad{WindowSeconds: 1e-9, URL: "http://" + listener.Addr().String()}
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(events.String(), "post expert load") || !strings.Contains(events.String(), `"ended"`) {
		t.Errorf("events = %s, want the failed post and the end of the run", &events)
	}
}

// certify writes a self-signed certificate for client and server.
func certify(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "engine"}, DNSNames: []string{"engine"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: certificate},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
