//! How messages are coded: as everybody does, and with small buffers.
//!
//! Each stream of a connection holds one buffer a direction for as long as it lasts, and an agent has four of them open that
//! say little: with the usual 8 KiB, a thousand agents would cost an aggregator 32 MiB. A longer message gets what it needs.

use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// What a stream's buffer begins with, in bytes.
const BUFFER: usize = 1024;
/// As tonic has it: when so many bytes wait, they are sent.
const SEND: usize = 32 * 1024;

/// The codec of all services.
#[derive(Clone, Debug)]
pub(crate) struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        SmallCodec(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, SEND))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, SEND))
    }
}
