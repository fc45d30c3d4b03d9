package hyperpod

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	signingAlgorithm = "AWS4-HMAC-SHA256"
	signingTime      = "20060102T150405Z"
	// maxSkew is how far a request's date may be from the server's clock: AWS
	// accepts five minutes.
	maxSkew = 5 * time.Minute
)

// verifier checks Signature Version 4 as AWS documents it ("Create a signed AWS
// API request"), for requests of one service without a query.
type verifier struct{ accessKey, secretKey, region, service string }

// authorization is a parsed Authorization header.
type authorization struct {
	accessKey, date, region, service string
	signedHeaders                    []string
	signature                        []byte
}

// parseAuthorization reads
// "AWS4-HMAC-SHA256 Credential=K/D/R/S/aws4_request, SignedHeaders=a;b, Signature=hex".
func parseAuthorization(header string) (authorization, error) {
	var a authorization
	algorithm, rest, _ := strings.Cut(header, " ")
	if algorithm != signingAlgorithm {
		return a, fmt.Errorf("algorithm %.40q is not %s", algorithm, signingAlgorithm)
	}
	seen := make(map[string]string)
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := seen[name]; !ok || twice {
			return a, fmt.Errorf("%.40q is not one name=value", part)
		}
		seen[name] = value
	}
	scope := strings.Split(seen["Credential"], "/")
	if len(scope) != 5 || slices.Contains(scope, "") || scope[4] != "aws4_request" {
		return a, errors.New("the Credential must be key/date/region/service/aws4_request")
	}
	a.accessKey, a.date, a.region, a.service = scope[0], scope[1], scope[2], scope[3]
	a.signedHeaders = strings.Split(seen["SignedHeaders"], ";")
	sorted := slices.IsSorted(a.signedHeaders) && len(slices.Compact(slices.Clone(a.signedHeaders))) == len(a.signedHeaders)
	if slices.Contains(a.signedHeaders, "") || !sorted || seen["SignedHeaders"] != strings.ToLower(seen["SignedHeaders"]) {
		return a, errors.New("the SignedHeaders must be a sorted list of lower-case names")
	}
	signature, err := hex.DecodeString(seen["Signature"])
	if err != nil || len(signature) != sha256.Size {
		return a, errors.New("the Signature must be 64 hexadecimal digits")
	}
	a.signature = signature
	return a, nil
}

// verify gives an *apiError unless the request was signed by the account's key
// for this service and region, now, with exactly this body.
func (v verifier) verify(r *http.Request, body []byte, now time.Time) error {
	header := r.Header.Get("Authorization")
	if header == "" {
		return refuse("MissingAuthenticationTokenException", "Missing Authentication Token")
	}
	a, err := parseAuthorization(header)
	if err != nil {
		return refuse("IncompleteSignatureException", "Authorization header: %v", err)
	}
	if a.accessKey != v.accessKey || r.Header.Get("X-Amz-Security-Token") != "" {
		return refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	signedAt, err := time.Parse(signingTime, r.Header.Get("X-Amz-Date"))
	switch {
	case err != nil:
		return refuse("IncompleteSignatureException", "Date must be in ISO-8601 'basic format'")
	case a.date != signedAt.Format("20060102"):
		return refuse("InvalidSignatureException", "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP")
	case signedAt.Before(now.Add(-maxSkew)):
		return refuse("InvalidSignatureException", "Signature expired: %s is now earlier than %s", signedAt.Format(signingTime), now.Add(-maxSkew).UTC().Format(signingTime))
	case signedAt.After(now.Add(maxSkew)):
		return refuse("InvalidSignatureException", "Signature not yet current: %s is still later than %s", signedAt.Format(signingTime), now.Add(maxSkew).UTC().Format(signingTime))
	case a.region != v.region:
		return refuse("InvalidSignatureException", "Credential should be scoped to a valid region.")
	case a.service != v.service:
		return refuse("InvalidSignatureException", "Credential should be scoped to correct service: '%s'.", v.service)
	}
	for name := range r.Header {
		name = strings.ToLower(name)
		if strings.HasPrefix(name, "x-amz-") && !slices.Contains(a.signedHeaders, name) {
			return refuse("InvalidSignatureException", "'%s' must be a 'SignedHeader' in the AWS Authorization.", name)
		}
	}
	if !slices.Contains(a.signedHeaders, "host") {
		return refuse("InvalidSignatureException", "'Host' must be a 'SignedHeader' in the AWS Authorization.")
	}
	if !hmac.Equal(a.signature, v.sign(a, signedAt, canonicalRequest(r, a.signedHeaders, body))) {
		return refuse("InvalidSignatureException", "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.")
	}
	return nil
}

// canonicalRequest is the text whose hash is signed, for a request of "/"
// without a query.
func canonicalRequest(r *http.Request, signedHeaders []string, body []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n/\n\n", r.Method)
	for _, name := range signedHeaders {
		values := r.Header.Values(name)
		switch name {
		case "host": // net/http moves these two out of the header
			values = []string{r.Host}
		case "content-length":
			values = []string{strconv.FormatInt(r.ContentLength, 10)}
		}
		trimmed := make([]string, len(values))
		for i, value := range values {
			trimmed[i] = strings.Join(strings.Fields(value), " ")
		}
		fmt.Fprintf(&b, "%s:%s\n", name, strings.Join(trimmed, ","))
	}
	fmt.Fprintf(&b, "\n%s\n%x", strings.Join(signedHeaders, ";"), sha256.Sum256(body))
	return b.String()
}

// sign derives the day's key and signs the hash of the canonical request.
func (v verifier) sign(a authorization, at time.Time, canonical string) []byte {
	scope := strings.Join([]string{a.date, v.region, v.service, "aws4_request"}, "/")
	toSign := fmt.Sprintf("%s\n%s\n%s\n%x", signingAlgorithm, at.Format(signingTime), scope, sha256.Sum256([]byte(canonical)))
	key := []byte("AWS4" + v.secretKey)
	for _, part := range []string{a.date, v.region, v.service, "aws4_request", toSign} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	return key
}
