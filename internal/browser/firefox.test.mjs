// The main journey in Debian's Firefox ESR, which Playwright cannot drive: by WebDriver
// BiDi. It has no closedby, for one, so that its dialogs are kept open another way.
import test from 'node:test'
import assert from 'node:assert/strict'
import puppeteer from 'puppeteer-core'
import { dashboard, password, pause, until } from './lib.mjs'

test('create, reveal, regenerate, revoke in Firefox', { timeout: 120_000 }, async (t) => {
	const d = await dashboard(t, 'doku', '-seed', '0')
	const b = await puppeteer.launch({ browser: 'firefox', executablePath: process.env.FIREFOX || '/usr/bin/firefox-esr', headless: true })
	t.after(() => b.close())
	t.diagnostic(await b.version())
	const page = await b.newPage()
	page.setDefaultTimeout(15_000)
	const errors = []
	page.on('pageerror', (e) => errors.push(String(e)))
	page.on('console', (m) => { if (/Content-Security-Policy/.test(m.text())) errors.push(m.text()) })

	const at = (role, name) => page.locator(`::-p-aria([name="${name}"][role="${role}"])`)
	const click = (role, name) => at(role, name).click()
	const dialog = async (name) => {
		await until(`the dialog ${name}`, () => page.evaluate((name) => [...document.querySelectorAll('dialog[open]')].some((e) => document.getElementById(e.getAttribute('aria-labelledby'))?.innerText === name), name))
	}
	const heading = (name) => until(`the heading ${name}`, () => page.evaluate((name) => !document.querySelector('dialog') && document.querySelector('h1')?.innerText === name, name).catch(() => false))
	const type = async (selector, text) => {
		await page.locator(selector).click()
		await page.keyboard.type(text)
	}
	const secret = () => page.evaluate(() => document.querySelector('dialog[open] [data-secret] textarea')?.value ?? '')
	const saved = async () => {
		await click('checkbox', 'I have saved this key')
		await click('button', 'Done')
	}
	const gone = async (token) => assert.equal(await page.evaluate((t) => [...document.querySelectorAll('*')].filter((e) => e.value?.includes?.(t) || e.defaultValue?.includes?.(t) || (e.shadowRoot ?? e).innerHTML.includes(t)).length, token), 0)
	const confirm = async (since) => {
		await dialog('Confirm that it is you')
		await type('dialog #ak-answer', await d.code(since))
		await click('button', 'Confirm')
	}

	await page.goto(d.origin + '/login')
	await type('[name=user]', 'admin')
	await type('[name=password]', password)
	await click('button', 'Sign in')
	await heading('API keys')
	errors.length = 0 // those of the page alone, and not of the sign-in

	await click('link', 'New API key')
	await dialog('New API key')
	await type('dialog #ak-name', 'Fox')
	await click('button', 'Create key')
	await dialog('API key created')
	const token = await secret()
	assert.match(token, /^doku_sk_live_/)
	let lost = 0
	for (let i = 0; i < 4; i++) {
		await page.keyboard.press('Escape')
		await pause(200)
		if (await secret() !== token) lost++
	}
	await page.mouse.click(5, 5)
	await click('button', 'Done') // not before it is saved
	await pause(200)
	if (await secret() !== token) lost++
	assert.equal(lost, 0)
	await click('button', 'Copy secret key')
	await until('it says so', () => page.evaluate(() => /Copied|Ctrl\+C/.test(document.querySelector('dialog [role=status].ak-copied').innerText)))
	await saved()
	await heading('Fox')
	await gone(token)
	await d.works(token)

	let since = d.mark()
	await click('button', 'Reveal key')
	await confirm(since)
	await dialog('Key revealed')
	assert.equal(await secret(), token)
	await page.keyboard.press('Escape')
	await heading('Fox')
	await gone(token)

	await click('button', 'Regenerate key')
	await dialog('Regenerate key')
	await page.select('dialog #ak-overlap', '24')
	await click('checkbox', 'I agree to the terms')
	since = d.mark()
	await click('button', 'Save')
	await confirm(since)
	await dialog('New secret key')
	const next = await secret()
	await saved()
	await heading('Fox')
	await gone(next)
	await d.works(token)
	await d.works(next)
	await page.goBack()
	await pause(300)
	await gone(next)
	await page.goForward()
	await heading('Fox')

	await click('button', 'Revoke key')
	await dialog('Revoke key')
	await click('radio', 'It may have leaked')
	await click('button', 'Revoke')
	await until('it is revoked', () => page.evaluate(() => document.querySelector('.ak-head .ak-is-revoked') !== null).catch(() => false))
	await d.refused(token)
	await d.refused(next)
	assert.deepEqual(errors, [])
})
