//! The fixed parts of the wire: every package, message, field name, number and type, as golden
//! text.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fmt::Write as _;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

#[test]
fn wire_is_unchanged() {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    for file in set.file.iter().filter(|file| !file.package().starts_with("google.")) {
        insta::assert_snapshot!(file.package(), text(file));
    }
}

fn text(file: &FileDescriptorProto) -> String {
    let mut out = String::new();
    for service in &file.service {
        put_service(service, &mut out);
    }
    for message in &file.message_type {
        put_message(message, message.name(), &mut out);
    }
    for kind in &file.enum_type {
        put_enum(kind, kind.name(), &mut out);
    }
    out
}

fn put_service(service: &ServiceDescriptorProto, out: &mut String) {
    for method in &service.method {
        let stream = |on: bool| if on { "stream " } else { "" };
        let (ask, answer) = (stream(method.client_streaming()), stream(method.server_streaming()));
        let (input, output) = (method.input_type(), method.output_type());
        let name = format!("{}/{}", service.name(), method.name());
        writeln!(out, "{name} {ask}{input} -> {answer}{output}").unwrap();
    }
}

fn put_message(message: &DescriptorProto, path: &str, out: &mut String) {
    writeln!(out, "{path}").unwrap();
    for field in &message.field {
        let many = if field.label() == Label::Repeated { "repeated " } else { "" };
        let kind = match field.r#type() {
            Type::Message | Type::Enum => field.type_name().to_owned(),
            scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        };
        let optional = if field.proto3_optional() { " optional" } else { "" };
        writeln!(out, "  {} {} {many}{kind}{optional}", field.number(), field.name()).unwrap();
    }
    for range in &message.reserved_range {
        writeln!(out, "  {}..{} reserved", range.start(), range.end()).unwrap();
    }
    for kind in &message.enum_type {
        put_enum(kind, &format!("{path}.{}", kind.name()), out);
    }
    for inner in &message.nested_type {
        put_message(inner, &format!("{path}.{}", inner.name()), out);
    }
}

fn put_enum(kind: &EnumDescriptorProto, path: &str, out: &mut String) {
    writeln!(out, "{path}").unwrap();
    for value in &kind.value {
        writeln!(out, "  {} {}", value.number(), value.name()).unwrap();
    }
}
