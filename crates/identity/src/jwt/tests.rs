//! Our tokens verified by `jsonwebtoken`, its tokens verified by us, and tokens that must be rejected.

use jsonwebtoken as other;
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::keys::key::KeyKind;

const AUDIENCE: &str = "spiffe://cluster.local/ns/dapr-system/dapr-sentry";
const SUBJECT: &str = "spiffe://public/ns/shop/cart";
const NOW: i64 = 1_800_000_000;

fn expected() -> Expected<'static> {
    Expected {
        audience: AUDIENCE,
        subject: SUBJECT,
        now: Timestamp::from_second(NOW).unwrap(),
        leeway: Duration::from_mins(5),
    }
}

fn good_claims() -> Value {
    json!({"sub": SUBJECT, "aud": [AUDIENCE], "exp": NOW + 60, "iat": NOW, "nbf": NOW})
}

/// A signer and the key set that publishes its key.
fn signer(algorithm: JwtAlgorithm) -> (JwtSigner, JwkSet) {
    let key = PrivateKey::generate_for(algorithm).unwrap();
    let signer = JwtSigner::new(&key, algorithm, None).unwrap();
    let set = json!({"keys": [signer.public().to_jwk(signer.kid(), algorithm)]});
    (signer, JwkSet::parse(set.to_string().as_bytes()).unwrap())
}

/// A correctly signed token with any header and claims.
fn token(signer: &JwtSigner, header: &Value, claims: &Value) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let value = signer.signature(message.as_bytes()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(value))
}

fn header(signer: &JwtSigner) -> Value {
    json!({"alg": signer.algorithm().name(), "kid": signer.kid(), "typ": "JWT"})
}

fn svid() -> JwtClaims {
    JwtClaims {
        subject: SUBJECT.to_owned(),
        audiences: vec![AUDIENCE.to_owned(), "public".to_owned()],
        issuer: Some("https://issuer.example".to_owned()),
        issued_at: NOW,
        not_before: NOW - 900,
        expires: NOW + 86_400,
        id: "00112233445566778899aabbccddeeff".to_owned(),
        usage: "sig",
    }
}

#[rstest]
fn tokens_of_every_algorithm_verify_with_their_own_key_only(
    #[values(
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
    )]
    algorithm: &str,
) {
    let algorithm = JwtAlgorithm::parse(algorithm).unwrap();
    let (signer, set) = signer(algorithm);
    let signed = signer.sign(&svid()).unwrap();
    assert_eq!(verify_token(&signed, &set, &expected()), Ok(()));

    let (_, foreign) = self::signer(algorithm);
    let unknown = TokenError::UnknownKeyId(signer.kid().to_owned());
    assert_eq!(verify_token(&signed, &foreign, &expected()), Err(unknown));
}

#[rstest]
#[case::rs256("RS256", other::Algorithm::RS256)]
#[case::ps384("PS384", other::Algorithm::PS384)]
#[case::es256("ES256", other::Algorithm::ES256)]
#[case::es384("ES384", other::Algorithm::ES384)]
#[case::eddsa("EdDSA", other::Algorithm::EdDSA)]
fn another_library_agrees(#[case] algorithm: &str, #[case] theirs: other::Algorithm) {
    let algorithm = JwtAlgorithm::parse(algorithm).unwrap();
    let key = PrivateKey::generate_for(algorithm).unwrap();
    let signer = JwtSigner::new(&key, algorithm, Some("k1")).unwrap();
    let jwk = signer.public().to_jwk("k1", algorithm);

    // Our token, verified by the other library.
    let jwk_of_theirs: other::jwk::Jwk = serde_json::from_value(jwk.clone()).unwrap();
    let mut rules = other::Validation::new(theirs);
    rules.set_audience(&[AUDIENCE]);
    rules.validate_exp = false;
    let decoding = other::DecodingKey::from_jwk(&jwk_of_theirs).unwrap();
    let read = other::decode::<Value>(signer.sign(&svid()).unwrap(), &decoding, &rules).unwrap();
    assert_eq!(read.claims, serde_json::to_value(svid()).unwrap());
    assert_eq!(read.header.kid.as_deref(), Some("k1"));

    // Its token, verified by us.
    let pem = key.to_pem();
    let encoding = match algorithm {
        JwtAlgorithm::Rs256 | JwtAlgorithm::Ps384 => {
            other::EncodingKey::from_rsa_pem(pem.as_bytes())
        }
        JwtAlgorithm::EdDsa => other::EncodingKey::from_ed_pem(pem.as_bytes()),
        _ => other::EncodingKey::from_ec_pem(pem.as_bytes()),
    };
    let mut head = other::Header::new(theirs);
    head.kid = Some("k1".to_owned());
    let signed = other::encode(&head, &good_claims(), &encoding.unwrap()).unwrap();
    let set = JwkSet::parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
    assert_eq!(verify_token(&signed, &set, &expected()), Ok(()));
}

#[rstest]
#[case::audience("aud", json!(["other"]), "\"aud\" not satisfied")]
#[case::no_audience("aud", Value::Null, "\"aud\" not satisfied")]
#[case::subject("sub", json!("spiffe://public/ns/shop/other"), "\"sub\" not satisfied")]
#[case::expired("exp", json!(NOW - 300), "\"exp\" not satisfied")]
#[case::no_expiry("exp", Value::Null, "\"exp\" not satisfied")]
#[case::expiry_is_not_a_number("exp", json!("soon"), "\"exp\" not satisfied")]
#[case::not_yet("nbf", json!(NOW + 301), "\"nbf\" not satisfied")]
#[case::issued_later("iat", json!(NOW + 301), "\"iat\" not satisfied")]
fn rejects_claims(#[case] name: &str, #[case] value: Value, #[case] want: &str) {
    let (signer, set) = signer(JwtAlgorithm::Es256);
    let mut claims = good_claims();
    claims[name] = value;
    let signed = token(&signer, &header(&signer), &claims);
    assert_eq!(verify_token(&signed, &set, &expected()).unwrap_err().to_string(), want);
}

#[rstest]
#[case::within_the_leeway(json!({"exp": NOW - 299, "iat": NOW + 300, "nbf": NOW + 300}))]
#[case::no_other_times(json!({"iat": null, "nbf": null}))]
#[case::fractions(json!({"exp": 1_800_000_000.5_f64}))]
#[case::audience_as_text(json!({"aud": AUDIENCE}))]
fn accepts_claims(#[case] changes: Value) {
    let (signer, set) = signer(JwtAlgorithm::Es256);
    let mut claims = good_claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    let signed = token(&signer, &header(&signer), &claims);
    assert_eq!(verify_token(&signed, &set, &expected()), Ok(()));
}

#[test]
fn rejects_tokens_without_proof() {
    let (signer, set) = signer(JwtAlgorithm::Rs256);
    let refused = |token: &str| verify_token(token, &set, &expected()).unwrap_err();
    let with = |change: Value| {
        let mut header = header(&signer);
        for (name, value) in change.as_object().unwrap() {
            header[name] = value.clone();
        }
        token(&signer, &header, &good_claims())
    };
    assert_eq!(refused(&with(json!({"kid": null}))), TokenError::NoKeyId);
    assert_eq!(refused(&with(json!({"kid": "x"}))), TokenError::UnknownKeyId("x".to_owned()));
    for algorithm in ["none", "HS256", "ES256", "RS512", "PS256", "rs256"] {
        assert_eq!(refused(&with(json!({"alg": algorithm}))), TokenError::Signature, "{algorithm}");
    }
    assert_eq!(refused(&with(json!({"crit": ["exp"]}))), TokenError::Signature);
    for text in ["", ".", "..", "a.b.c", "{}", &good_claims().to_string()] {
        assert_eq!(refused(text), TokenError::Structure, "{text:?}");
    }
    let good = with(json!({}));
    let unsigned = format!("{}.", good.rsplit_once('.').unwrap().0);
    assert_eq!(refused(&unsigned), TokenError::Signature);
}

#[test]
fn an_encryption_key_verifies_no_token() {
    let (signer, _) = signer(JwtAlgorithm::Es256);
    let mut jwk = signer.public().to_jwk(signer.kid(), JwtAlgorithm::Es256);
    jwk["use"] = json!("enc");
    let set = JwkSet::parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
    let refused = token(&signer, &header(&signer), &good_claims());
    let unknown = TokenError::UnknownKeyId(signer.kid().to_owned());
    assert_eq!(verify_token(&refused, &set, &expected()), Err(unknown));
}

#[test]
fn a_key_signs_with_its_own_algorithms_only() {
    let key = PrivateKey::generate(KeyKind::EcdsaP256).unwrap();
    for algorithm in [JwtAlgorithm::Es384, JwtAlgorithm::Rs256, JwtAlgorithm::EdDsa] {
        assert_eq!(JwtSigner::new(&key, algorithm, None).err(), Some(KeyError::Unsupported));
    }
    let signer = JwtSigner::new(&key, JwtAlgorithm::Es256, Some("mine")).unwrap();
    assert_eq!(format!("{signer:?}"), "JwtSigner(ES256, kid \"mine\", redacted)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_panics(text in "[A-Za-z0-9_.{}\":-]{0,200}") {
        prop_assert!(verify_token(&text, &JwkSet::default(), &expected()).is_err());
    }

    /// A valid token with one changed character is rejected.
    #[test]
    fn no_changed_token_is_accepted(at in 0_usize..10_000, with in "[A-Za-z0-9_.-]") {
        let (signer, set) = signer(JwtAlgorithm::Es256);
        let good = token(&signer, &header(&signer), &good_claims());
        let at = at % good.len();
        let mut changed = good.clone();
        changed.replace_range(at..=at, &with);
        prop_assert_eq!(verify_token(&changed, &set, &expected()).is_ok(), changed == good);
    }
}
