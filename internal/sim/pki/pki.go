// Package pki makes a throw-away certificate authority for the demo and for
// tests: certificates that last a day, for servers on loopback and for clients
// whose DNS names are their identity. Everything is written into one folder.
//
// It is no way to run a real authority: the authority's key exists only in
// memory, so nothing can be issued after the process has ended, and nothing can
// be revoked.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// Certificates are valid from an hour ago, for clocks that differ, to a day on.
const (
	validBefore = time.Hour
	validAfter  = 24 * time.Hour
)

// Authority issues certificates into its folder.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

// Pair names the files of a certificate and its key, PEM-encoded.
type Pair struct{ CertFile, KeyFile string }

// New makes an authority and writes its certificate to dir/ca.crt; dir is
// created if need be.
func New(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	template, err := newTemplate("Evenkeel throw-away authority")
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	a := &Authority{dir: dir, cert: cert, key: key}
	if err := writePEM(a.CAFile(), "CERTIFICATE", der, 0o644); err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	return a, nil
}

// CAFile is the authority's certificate.
func (a *Authority) CAFile() string { return filepath.Join(a.dir, "ca.crt") }

// Server issues a certificate for a server on loopback that is also known by
// the given name, into <name>.crt and <name>.key.
func (a *Authority) Server(name string) (Pair, error) {
	return a.issue(name, "", func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.DNSNames = []string{name, "localhost"}
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	})
}

// Client issues a certificate that proves a name, of a node or of a role, into
// <name>.client.crt and <name>.client.key.
func (a *Authority) Client(name string) (Pair, error) {
	return a.issue(name, ".client", func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		c.DNSNames = []string{name}
	})
}

func (a *Authority) issue(name, suffix string, set func(*x509.Certificate)) (Pair, error) {
	if !fault.ValidName(name) { // it becomes the name of a file
		return Pair{}, fmt.Errorf("issue certificate: %q is not a name", name)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("issue certificate for %s: %w", name, err)
	}
	template, err := newTemplate(name)
	if err != nil {
		return Pair{}, fmt.Errorf("issue certificate for %s: %w", name, err)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	set(template)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("issue certificate for %s: %w", name, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("issue certificate for %s: %w", name, err)
	}
	pair := Pair{CertFile: filepath.Join(a.dir, name+suffix+".crt"), KeyFile: filepath.Join(a.dir, name+suffix+".key")}
	if err := writePEM(pair.KeyFile, "PRIVATE KEY", keyDER, 0o600); err != nil {
		return Pair{}, fmt.Errorf("issue certificate: %w", err)
	}
	if err := writePEM(pair.CertFile, "CERTIFICATE", der, 0o644); err != nil {
		return Pair{}, fmt.Errorf("issue certificate: %w", err)
	}
	return pair, nil
}

func newTemplate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-validBefore),
		NotAfter:     now.Add(validAfter),
	}, nil
}

// ClientTLS is the configuration of a client that trusts this authority and
// shows the given certificate; none if the pair is zero.
func (a *Authority) ClientTLS(p Pair) (*tls.Config, error) {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	c := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if p == (Pair{}) {
		return c, nil
	}
	certificate, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load client certificate: %w", err)
	}
	c.Certificates = []tls.Certificate{certificate}
	return c, nil
}

// webConfig is the part of exporter-toolkit's web configuration file that is
// written.
type webConfig struct {
	TLSServerConfig struct {
		CertFile       string `yaml:"cert_file"`
		KeyFile        string `yaml:"key_file"`
		ClientCAFile   string `yaml:"client_ca_file"`
		ClientAuthType string `yaml:"client_auth_type"`
	} `yaml:"tls_server_config"`
}

// WebConfig writes a web configuration file (--web.config.file) for a daemon
// with the given certificate, <name>.web.yml, and gives its path. Clients may
// come without a certificate; one that they show has to be of this authority.
func (a *Authority) WebConfig(name string, server Pair) (string, error) {
	if !fault.ValidName(name) {
		return "", fmt.Errorf("write web configuration: %q is not a name", name)
	}
	var c webConfig
	c.TLSServerConfig.CertFile = server.CertFile
	c.TLSServerConfig.KeyFile = server.KeyFile
	c.TLSServerConfig.ClientCAFile = a.CAFile()
	c.TLSServerConfig.ClientAuthType = "VerifyClientCertIfGiven"
	content, err := yaml.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("write web configuration: %w", err)
	}
	path := filepath.Join(a.dir, name+".web.yml")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return "", fmt.Errorf("write web configuration: %w", err)
	}
	return path, nil
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
