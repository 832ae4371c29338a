//! Encodes messages, with small buffers.
//!
//! `tonic` allocates a buffer for each call before there is anything to put into it, 8 KiB by
//! default. A sidecar holds seven streams open that are idle for hours, and there are thousands of
//! sidecars.
use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstCodec;

/// First size of a call's buffer in bytes. Larger messages make it grow.
const BUFFER_BYTES: usize = 256;
/// Messages that are ready are sent together up to this size; the default of `tonic`.
const TOGETHER_BYTES: usize = 32 * 1024;

/// Protocol Buffers, as `tonic_prost::ProstCodec` writes and reads them.
#[derive(Clone, Copy, Debug)]
pub struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = OneBuffer<T>;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        OneBuffer(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, TOGETHER_BYTES))
    }
}

/// Encodes each message into memory of its size. A list of a megabyte would otherwise be copied
/// from buffer to buffer while it doubles, and leave up to a megabyte of the last one unused.
#[derive(Clone, Copy, Debug)]
pub struct OneBuffer<T>(PhantomData<T>);

impl<T: Message> Encoder for OneBuffer<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|e| Status::internal(e.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, TOGETHER_BYTES)
    }
}
